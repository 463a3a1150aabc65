"""The HTTP application, as a function of how to load an engine. Nothing is loaded at import.

Routes are in `service/routes/`: parse, call `service.answering`, shape the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service import errors, logs
from service.body import BodyGuard, Large
from service.closing import Closing
from service.database import Database
from service.holdings import complete
from service.jobs import Checker, JobQueue, JobTable, Launch
from service.keeper import Keeper
from service.metrics import Metrics
from service.protection.gate import Gate
from service.protection.guards import Guards
from service.protection.shell import Shell
from service.resident import Loaded, Resident
from service.routes import ROUTERS, probes
from service.settings import Settings
from service.tracing import Traces
from service.visits import Drain, Visits
from steering.version import __version__

_ABOUT = (
    "Text from a language model whose hidden states stay inside the regions you allow.\n\n"
    "A `steering` field names probes and bounds; every choice reports what was done and whether each bound held on the "
    "stored value. The algebra guarantees the probe, not the text.\n"
)


def create_app(
    load: Callable[[], Loaded],
    settings: Settings,
    *,
    announce: Callable[[Resident], None] = lambda resident: None,
    url: str | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """An app that calls `load` once, in the background, when it starts.

    The key TILLER_API_KEY of the environment, if there is one, is read here. `announce` is called from the loading
    thread when it has ended, well or not (`Resident.failure`). `url` is where the app can be reached from this
    machine; without it evaluations are refused. `traces` gets a span for every request, and is closed with the app.
    """
    guards = Guards(settings)
    metrics, drain = Metrics(), Drain()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings, app.state.guards = settings, guards
        app.state.database = database = await asyncio.to_thread(Database, settings.state_folder())
        await asyncio.to_thread(guards.open, database)
        launch = Launch(settings, url)
        guards.keyring.lend("jobs", launch.key)
        app.state.jobs = jobs = JobQueue(JobTable(database), launch)
        app.state.checker = checker = Checker(launch)

        def observed() -> Loaded:
            loaded = complete(load(), settings, database)
            loaded.engine.observe(metrics)
            return loaded

        def ready(resident: Resident) -> None:
            if resident.failure is None and url is not None:
                jobs.begin()
            announce(resident)

        app.state.resident = resident = Resident(observed, announce=ready)
        app.state.keeper = Keeper(resident, settings, database)
        metrics.watch(resident)
        resident.start()
        try:
            yield
        finally:
            await asyncio.to_thread(checker.close)
            await asyncio.to_thread(jobs.close)
            resident.close()
            await asyncio.to_thread(guards.close)
            if traces is not None:
                await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="Tiller",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        responses=errors.REFUSALS,
        docs_url=None,  # our own page: FastAPI's takes its script from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect has no body, and many clients do not follow it
    )
    app.state.metrics, app.state.drain = metrics, drain
    upload = Large(settings.max_upload_bytes, flag="--max-upload-bytes")
    app.add_middleware(BodyGuard, max_bytes=settings.max_body_bytes, large={("POST", probes.UPLOADS): upload})
    app.add_middleware(Closing, drain=drain)
    app.add_middleware(Gate, guards=guards, origins=settings.cors_origin)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["retry-after", "x-request-id"],
        )
    app.add_middleware(Shell, hosts=settings.hosts, body_seconds=settings.body_seconds)
    told = [metrics.visited, logs.access(texts=settings.log_prompts), *([traces.visited] if traces else [])]
    app.add_middleware(Visits, drain=drain, ended=told)  # the last to be added is the outermost
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
