"""For whoever runs the server: is it alive, is it ready, what does it do, which build is it?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from service.errors import draining
from service.routes.replies import HEALTH, METRICS, READY, replied
from service.routes.state import TheDrain, TheLoaded, TheMetrics, TheResident
from steering.version import __version__

router = APIRouter(tags=["operations"])


@router.get("/health", responses=HEALTH)
async def health(resident: TheResident) -> dict[str, str]:
    """Live: 200 while this process can answer or will; 503 when the engine has died or the model never came."""
    resident.check_alive()
    return {"status": "ok"}


@router.get("/ready", responses=READY)
async def ready(loaded: TheLoaded, drain: TheDrain) -> dict[str, Any]:
    """Ready: 200 with the self-test's summary once the model is loaded and has been seen to obey its hooks.

    503 before that, and again from SIGTERM on.
    """
    if drain.began:
        raise draining()
    return {
        "status": "ready",
        "model": loaded.engine.lm.name,
        "probes": [probe.id for probe in loaded.probes],
        "self_test": asdict(loaded.engine.self_test),
        "waiting": loaded.engine.waiting,
        "running": loaded.engine.running,
    }


@router.get("/metrics", response_class=Response, responses=METRICS)
def metrics(http: Request, metrics: TheMetrics) -> Response:
    """Everything that is counted, for Prometheus; OpenMetrics when asked for."""
    body, kind = metrics.exposition(http.headers.get("accept", ""))
    return Response(body, headers={"content-type": kind})


@router.get("/version", responses=replied({"version": __version__}))
async def version() -> dict[str, str]:
    """This build."""
    return {"version": __version__}
