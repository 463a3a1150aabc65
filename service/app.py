"""The HTTP application, as a function of how to load an engine. Nothing is loaded at import.

This is where everything is put together; each part is made here once and finds the others by `app.state`
(`service.routes.state`). A request passes, from outside in:

    Visits      its id; when it has ended, its metrics, its line in the log and its span
    Shell       a bounded head, a known host, a body in time; the headers of every reply
    CORS        pages of other sites, where some were named
    Gate        the key and its limits; without keys, no foreign pages
    Closing     from SIGTERM on, no new work
    BodyGuard   the body, whole, within its limit, sound JSON
    routes      parse, call what does the work, shape the answer (`service/routes/`)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service import errors
from service.body import BodyGuard, Large
from service.database import Database
from service.holdings.keeper import Keeper
from service.holdings.reading import complete
from service.jobs import Checker, JobQueue, JobTable, Launch
from service.operations import logs
from service.operations.closing import Closing
from service.operations.metrics import Metrics
from service.operations.tracing import Traces
from service.operations.visits import Drain, Visit, Visits
from service.protection.gate import Gate
from service.protection.guards import Guards
from service.protection.shell import Shell
from service.resident import Loaded, Resident
from service.routes import ROUTERS, probes
from service.settings import Settings
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
    url: str | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """An app that calls `load` once, in the background, when it starts.

    The key TILLER_API_KEY of the environment, if there is one, is read here. `announce` is called from the loading
    thread when it has ended, well or not (`Resident.failure`). `url` is where the app can be reached from this
    machine; without it evaluations are refused. `traces` gets a span for every request, and is closed with the app.
    """
    guards, metrics, drain = Guards(settings), Metrics(), Drain()
    app = FastAPI(
        title="Tiller",
        version=__version__,
        description=_ABOUT,
        lifespan=partial(
            _lifespan,
            settings=settings,
            guards=guards,
            metrics=metrics,
            load=load,
            announce=announce,
            url=url,
            traces=traces,
        ),
        responses=errors.REFUSALS,
        docs_url=None,  # our own page: FastAPI's takes its script from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect has no body, and many clients do not follow it
    )
    app.state.settings, app.state.guards = settings, guards
    app.state.metrics, app.state.drain = metrics, drain
    told = [metrics.visited, logs.access(texts=settings.log_prompts), *([traces.visited] if traces else [])]
    _wrap(app, settings, guards=guards, drain=drain, told=told)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    *,
    settings: Settings,
    guards: Guards,
    metrics: Metrics,
    load: Callable[[], Loaded],
    announce: Callable[[Resident], None],
    url: str | None,
    traces: Traces | None,
) -> AsyncIterator[None]:
    """From the first look at the disk to the last thread's end. What blocks runs in a thread."""
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


def _wrap(
    app: FastAPI, settings: Settings, *, guards: Guards, drain: Drain, told: Sequence[Callable[[Visit], None]]
) -> None:
    """Put the middleware around the routes. What is added last is outermost, so read it from below."""
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
    app.add_middleware(Visits, drain=drain, ended=told)
