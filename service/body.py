"""A body is read whole, within its limit, and is sound JSON if it says it is, before any route sees it.

The limit counts the bytes that arrive, not those a header claims. JSON must be valid UTF-8 and one object; `NaN` and
`Infinity`, which Python's parser accepts and JSON does not have, are refused, since a NaN bound compares false with
everything and would steer nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BAD_JSON, BODY_TOO_LARGE, TOO_SLOW, ApiError, reply
from service.protection.nesting import MAX_DEPTH, nests_too_deeply

_DRAIN = 8
"""A refused body is read on (and dropped) up to this many limits, so that its sender gets to see the refusal."""


class Large:
    """A route that takes large bodies: few at a time, and the others wait at their sockets."""

    def __init__(self, max_bytes: int, *, flag: str, at_once: int = 2, seconds: float = 120.0) -> None:
        self.max_bytes = max_bytes
        self.flag = flag
        """What raises the limit"""
        self.seconds = seconds
        """A body may take to arrive, once it is its turn"""
        self.turn = asyncio.Semaphore(at_once)


class BodyGuard:
    """ASGI middleware around the whole app. `large` has the routes with a limit of their own, by method and path."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, large: Mapping[tuple[str, str], Large] | None = None) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._large = dict(large or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, check, hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        large = self._large.get((scope["method"], scope["path"]))
        async with nullcontext() if large is None else large.turn:
            await self._guarded(scope, receive, send, large)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, large: Large | None) -> None:
        most = self._max_bytes if large is None else large.max_bytes
        try:
            async with asyncio.timeout(None if large is None else large.seconds):
                body = await self._read(receive, most)
            if body is None:
                return
            self._check(body, Headers(scope=scope), most, "--max-body-bytes" if large is None else large.flag)
        except TimeoutError:
            late = ApiError(TOO_SLOW, "the body did not arrive in time; send it again", headers={"connection": "close"})
            await reply(late)(scope, receive, send)
            return
        except ApiError as error:
            await reply(error)(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive, most: int) -> bytes | None:
        """The body, or as much of it as shows that it is too large; None when the client has gone."""
        body, size = bytearray(), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if len(body) <= most:
                body += chunk[: most + 1]
            if not message.get("more_body", False) or size > _DRAIN * most:
                return bytes(body)

    def _check(self, body: bytes, headers: Headers, most: int, flag: str) -> None:
        if len(body) > most:
            raise ApiError(
                BODY_TOO_LARGE,
                f"the body is over {most} bytes; send less, or start the server with a larger {flag}",
                headers={"connection": "close"},
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and (kind == "application/json" or kind.endswith("+json")):
            check_json_object(body)


def check_json_object(body: bytes) -> None:
    """Raise ApiError unless `body` is one JSON object in UTF-8 whose numbers are finite."""

    def refuse(literal: str) -> NoReturn:
        raise ApiError(BAD_JSON, f"the body holds {literal}, which JSON does not have; use null or a finite number")

    if nests_too_deeply(body):
        raise ApiError(BAD_JSON, f"the body nests too deeply: over {MAX_DEPTH} levels; send a plainer one")
    try:
        document = json.loads(body.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ApiError(
            BAD_JSON, f"the body is not valid UTF-8 (byte {error.start}); encode it as UTF-8 and send it again"
        ) from None
    except json.JSONDecodeError as error:
        raise ApiError(
            BAD_JSON, f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError:
        raise ApiError(BAD_JSON, "the body holds a number of thousands of digits; send a plainer one") from None
    if not isinstance(document, dict):
        raise ApiError(BAD_JSON, 'the body is JSON but no object; send fields in braces, as in {"prompt": "..."}')
