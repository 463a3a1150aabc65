"""What the app keeps, as parameters of a route."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from service.holdings.keeper import Keeper
from service.jobs import Checker, JobQueue
from service.operations.metrics import Metrics
from service.operations.visits import Drain
from service.resident import Loaded, Resident
from service.settings import Settings


def _kept(name: str) -> Any:
    """What the app keeps under `name`."""

    async def find(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(find)


async def _loaded(request: Request) -> Loaded:
    resident: Resident = request.app.state.resident
    return resident.get()


TheResident = Annotated[Resident, _kept("resident")]
"""The engine's keeper, ready or not."""

TheSettings = Annotated[Settings, _kept("settings")]
"""The server's settings."""

TheMetrics = Annotated[Metrics, _kept("metrics")]
"""What is counted."""

TheDrain = Annotated[Drain, _kept("drain")]
"""Whether the server is about to end."""

TheJobs = Annotated[JobQueue, _kept("jobs")]
"""The queue of evaluations; its table blocks, so ask it in a thread."""

TheChecker = Annotated[Checker, _kept("checker")]
"""Who says whether an evaluation can be run."""

TheKeeper = Annotated[Keeper, _kept("keeper")]
"""Who changes probes and policies; its work blocks, so do it in a thread."""

TheLoaded = Annotated[Loaded, Depends(_loaded)]
"""Engine and probes; the route answers 503 while there are none."""
