"""Only callers with a key come in, and only within its limits. ASGI middleware; nothing of a refused body is kept.

`Authorization: Bearer KEY` is demanded once there is any key (or `require_key`), of every route but those that say no
more than that a server is here: probes of health and the pages, which ask for a key themselves. The name of the key,
never the key, goes to `request.state.key`, for logs and metrics.

A key is of scope generate, or admin; what changes the server for others (`manages`) takes the latter, and is refused
before its body is read.

A server without keys is used by whoever reaches it, and a browser is somebody: a page of another site may send it
requests, if not read the replies. So there, what changes or costs anything is refused from a foreign page.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import FORBIDDEN, FOREIGN_ORIGIN, UNAUTHENTICATED, ApiError, reply
from service.protection.guards import Guards
from service.protection.keys import Key
from service.protection.ledger import Account

OPEN_PATHS = frozenset({"/", "/reports", "/docs", "/health", "/ready", "/version", "/favicon.ico"})
OPEN_FOLDERS = ("/static/",)
"""Pages and their files hold no data: a page asks for the key itself."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_DROPPED = 1 << 20
"""Bytes of a refused body that are read and dropped, so that its sender gets to see the refusal."""


class Gate:
    """Around everything that reads bodies."""

    def __init__(self, app: ASGIApp, *, guards: Guards, origins: Collection[str] = ()) -> None:
        self._app = app
        self._guards = guards
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask for the key, count the request, hand on."""
        if scope["type"] != "http" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            key = self._key(scope)
            if key is not None:
                _demand_scope(key, scope["method"], scope["path"])
                self._guards.rates.enter(key)
        except ApiError as error:
            await refuse(error, scope, receive, send)
            return
        if key is None:
            await self._app(scope, receive, send)
            return
        account = Account(self._guards.ledger, key)
        scope.setdefault("state", {}).update(key=key.name, account=account)
        try:
            await self._app(scope, receive, send)
        finally:
            account.close()
            self._guards.rates.leave(key)

    def _key(self, scope: Scope) -> Key | None:
        """Whose request it is; None where no key is needed. Raises ApiError 401, or 403 for a foreign page."""
        headers = Headers(scope=scope)
        if not self._guards.keyring.closed:
            self._demand_own_page(scope["method"], headers)
            return None
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise _unauthenticated("this server needs a key; send it as the header  Authorization: Bearer KEY")
        key = self._guards.keyring.find(sent.strip())
        if key is None:
            raise _unauthenticated("this key is not valid here; ask whoever runs the server for one")
        return key

    def _demand_own_page(self, method: str, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or method in _READS or self._origins & {"*", origin}:
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise ApiError(
                FOREIGN_ORIGIN,
                "a page of another site sent this, and this server has no keys to tell whether it may; if it may, "
                "start the server with --cors-origin and the page's origin",
                headers={"x-should-retry": "false"},
            )


def manages(method: str, path: str) -> bool:
    """Whether a request changes what the server does for others. Scoring is a question, although it is posted."""
    scores = method == "POST" and path.startswith("/v1/steering/probes/") and path.endswith("/score")
    return method not in _READS and path.startswith("/v1/steering/") and not scores


def _demand_scope(key: Key, method: str, path: str) -> None:
    if manages(method, path) and key.scope != "admin":
        raise ApiError(
            FORBIDDEN,
            f"the key {key.name!r} may ask for text and look, and not change probes, policies or evaluations; that "
            "takes a key of scope admin (tiller keys add NAME --scope admin)",
            headers={"x-should-retry": "false"},
        )


def is_open(path: str) -> bool:
    """Whether a path is for everybody."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `error`. A body of moderate size is read and dropped first; after any other the connection ends."""
    if not await _drop_body(Headers(scope=scope), receive):
        error.headers["connection"] = "close"
    await reply(error)(scope, receive, send)


async def _drop_body(headers: Headers, receive: Receive) -> bool:
    """Whether the whole body came."""
    if "expect" in headers:  # it waits for our word to send the body, and does not get it
        return False
    dropped = 0
    while dropped <= _DROPPED:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        dropped += len(message.get("body", b""))
        if not message.get("more_body", False):
            return True
    return False


def _unauthenticated(message: str) -> ApiError:
    return ApiError(UNAUTHENTICATED, message, headers={"www-authenticate": "Bearer"})
