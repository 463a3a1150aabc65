"""The HTTP application, as a function of how to load an engine. Nothing is loaded at import.

Routes are in `service/routes/`: parse, call `service.answering`, shape the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service import errors
from service.body import BodyGuard, Large
from service.database import Database
from service.errors import ErrorBody
from service.keeper import Keeper, complete
from service.resident import Loaded, Resident
from service.routes import generate, openai_api, operations, pages, policies, probes, steering_api
from service.settings import Settings
from steering.version import __version__

_ABOUT = """Text from a language model whose hidden states stay inside the regions you allow.

A `steering` field names probes and bounds; every choice reports what was done and whether each bound held on the
stored value. The algebra guarantees the probe, not the text.
"""


def create_app(
    load: Callable[[], Loaded], settings: Settings, *, announce: Callable[[Resident], None] = lambda resident: None
) -> FastAPI:
    """An app that calls `load` once, in the background, when it starts.

    `announce` is called from that thread when loading has ended, well or not (`Resident.failure`).
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.database = database = await asyncio.to_thread(Database, settings.state_folder())
        app.state.resident = resident = Resident(lambda: complete(load(), settings, database), announce=announce)
        app.state.keeper = Keeper(resident, settings, database)
        resident.start()
        try:
            yield
        finally:
            resident.close()

    app = FastAPI(
        title="Tiller",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        responses={"default": {"model": ErrorBody, "description": "A refusal, always of this shape"}},
        redoc_url=None,
    )
    upload = Large(settings.max_upload_bytes, flag="--max-upload-bytes")
    app.add_middleware(BodyGuard, max_bytes=settings.max_body_bytes, large={("POST", probes.UPLOADS): upload})
    errors.install(app)
    for module in (generate, openai_api, steering_api, probes, policies, operations, pages):
        app.include_router(module.router)
    return app
