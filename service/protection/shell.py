"""What holds for every request and every reply, whoever sends it. ASGI middleware, inside `Visits` alone.

Requests: a head of bounded length, a host this server answers to, a body that arrives in time. Replies: the headers
that tell browsers to trust nothing; and a refusal of the one shape where something inside has failed.

The host matters because of DNS rebinding: a page of evil.example whose name suddenly means 127.0.0.1 is, to a browser,
of the same origin as a server there, and may read it. Its requests say `Host: evil.example`. So a server for this
machine alone answers to `localhost`, to addresses (no page of a foreign *name* can say those) and to `allowed_host`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    HEADERS_TOO_LARGE,
    NOT_HTTP,
    TOO_SLOW,
    UNKNOWN_HOST,
    URL_TOO_LONG,
    ApiError,
    internal,
    reply,
)
from service.protection.gate import is_open, refuse

MAX_URL_BYTES = 8 << 10
MAX_HEADER_BYTES = 16 << 10
MAX_HEADERS = 100
_SLOWEST = 512 << 10
"""Bytes a second a large body must come at."""

BARE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The policy of HTML that brings none of its own: it runs nothing and loads nothing."""

_ALWAYS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
_ON_PAGES = {
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Shell:
    """Around all other middleware. `hosts` None: any."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, body_seconds: float) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, hand on, add headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def headed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                _add_headers(message, scope["path"])
            await send(message)

        timely = _Timely(receive, seconds=self._body_seconds)
        try:
            refused = self._refused(scope)
            if refused is None:
                await self._app(scope, timely, headed)
            else:
                await refuse(refused, scope, timely, headed)
        except ApiError as error:  # of the body that is late: others are answered within
            if begun:
                raise
            await reply(error)(scope, receive, headed)
        except Exception:
            if not begun:
                await reply(internal())(scope, receive, headed)
            raise  # to `Visits`, which writes it into the log

    def _refused(self, scope: Scope) -> ApiError | None:
        """Why this server does not take the head of a request; None if it does."""
        url = len(scope["raw_path"]) + len(scope["query_string"])
        if url > MAX_URL_BYTES:
            return ApiError(URL_TOO_LONG, f"the URL has {url} bytes, and at most {MAX_URL_BYTES} are read; send a body")
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > MAX_HEADER_BYTES or len(scope["headers"]) > MAX_HEADERS:
            return ApiError(
                HEADERS_TOO_LARGE,
                f"the request has {len(scope['headers'])} headers of {size} bytes together; at most {MAX_HEADERS} of "
                f"{MAX_HEADER_BYTES} are read; send fewer",
            )
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy may have believed the other one
            return ApiError(
                NOT_HTTP,
                "the request gives both content-length and transfer-encoding; send one of them",
                headers={"connection": "close"},
            )
        host = headers.get("host")
        if self._hosts is not None and host is not None and not _is_own(host, self._hosts):
            return ApiError(
                UNKNOWN_HOST,
                "this server does not answer to the host name of this request; use localhost or its address, or start "
                "it with --allowed-host and that name",
                headers={"x-should-retry": "false"},
            )
        return None


class _Timely:
    """`receive` until the body is whole, which must be within `seconds` of the first call; then `receive` as it is.

    A large body has a second more for each 512 KiB that came. Waiting for its turn to be read is not its fault.
    """

    def __init__(self, receive: Receive, *, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._until: float | None = None
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(
                TOO_SLOW,
                f"the body was not whole within {self._seconds:g} seconds; send it faster, or start the server with "
                "larger --body-seconds",
                headers={"connection": "close"},
            ) from None
        self._until += len(message.get("body", b"")) / _SLOWEST
        self._whole = not message.get("more_body", False)
        return message


def _is_own(host: str, hosts: frozenset[str]) -> bool:
    name = host.lower()
    name = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
    name = name.removesuffix(".")
    if name in hosts or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _add_headers(message: Message, path: str) -> None:
    headers = MutableHeaders(scope=message)
    if not is_open(path):
        headers["cache-control"] = "no-store"
    wanted: Mapping[str, str] = _ALWAYS
    if headers.get("content-type", "").startswith("text/html"):
        wanted = _ALWAYS | _ON_PAGES | {"content-security-policy": BARE}
    for name, value in wanted.items():
        headers.setdefault(name, value)
