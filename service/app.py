"""The HTTP application, as a function of how to load an engine. Nothing is loaded at import.

Routes are in `service/routes/`: parse, call `service.answering`, shape the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import errors, logs
from service.body import BodyGuard
from service.database import Database
from service.errors import ErrorBody
from service.metrics import Metrics
from service.resident import Loaded, Resident
from service.routes import generate, openai_api, operations, steering_api
from service.settings import Settings
from service.tracing import Traces
from service.visits import Drain, Visits
from steering.version import __version__

_ABOUT = """Text from a language model whose hidden states stay inside the regions you allow.

A `steering` field names probes and bounds; every choice reports what was done and whether each bound held on the
stored value. The algebra guarantees the probe, not the text.
"""


def create_app(
    load: Callable[[], Loaded],
    settings: Settings,
    *,
    announce: Callable[[Resident], None] = lambda resident: None,
    traces: Traces | None = None,
) -> FastAPI:
    """An app that calls `load` once, in the background, when it starts.

    `announce` is called from that thread when loading has ended, well or not (`Resident.failure`). `traces` gets a span
    for every request, and is closed with the app.
    """

    def observed() -> Loaded:
        loaded = load()
        loaded.engine.observe(metrics)
        return loaded

    resident = Resident(observed, announce=announce)
    metrics = Metrics(resident)
    drain = Drain()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.database = await asyncio.to_thread(Database, settings.state_folder())
        resident.start()
        try:
            yield
        finally:
            resident.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="Tiller",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        responses={"default": {"model": ErrorBody, "description": "A refusal, always of this shape"}},
        redoc_url=None,
    )
    app.state.resident, app.state.metrics, app.state.drain = resident, metrics, drain
    app.add_middleware(BodyGuard, max_bytes=settings.max_body_bytes)
    app.add_middleware(  # the last to be added is the outermost
        Visits,
        drain=drain,
        refusal=lambda: errors.reply(errors.draining()),
        failure=lambda: errors.reply(errors.internal()),
        ended=[metrics.visited, logs.access(texts=settings.log_prompts), *([traces.visited] if traces else [])],
    )
    errors.install(app)
    for module in (generate, openai_api, steering_api, operations):
        app.include_router(module.router)
    return app
