"""From SIGTERM on, work of the engine is refused: whoever sends it should ask another server. ASGI middleware."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import draining
from service.operations.visits import Drain, generates
from service.protection.gate import refuse


class Closing:
    """Inside whatever checks keys, so that only callers who may come in are told."""

    def __init__(self, app: ASGIApp, *, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if self._drain.began and scope["type"] == "http" and generates(scope["method"], scope["path"]):
            await refuse(draining(), scope, receive, send)
        else:
            await self._app(scope, receive, send)
