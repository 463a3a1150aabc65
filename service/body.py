"""A body is read whole, within its limit, and is sound JSON if it says it is, before any route sees it.

The limit counts the bytes that arrive, not those a header claims. JSON must be valid UTF-8 and one object; `NaN` and
`Infinity`, which Python's parser accepts and JSON does not have, are refused, since a NaN bound compares false with
everything and would steer nothing.
"""

from __future__ import annotations

import json
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BAD_JSON, BODY_TOO_LARGE, ApiError, reply
from service.protection.nesting import MAX_DEPTH, nests_too_deeply

_DRAIN = 8
"""A refused body is read on (and dropped) up to this many limits, so that its sender gets to see the refusal."""


class BodyGuard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, check, hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            return
        try:
            self._check(body, Headers(scope=scope))
        except ApiError as error:
            await reply(error)(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or as much of it as shows that it is too large; None when the client has gone."""
        body, size = bytearray(), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if len(body) <= self._max_bytes:
                body += chunk[: self._max_bytes + 1]
            if not message.get("more_body", False) or size > _DRAIN * self._max_bytes:
                return bytes(body)

    def _check(self, body: bytes, headers: Headers) -> None:
        if len(body) > self._max_bytes:
            raise ApiError(
                BODY_TOO_LARGE,
                f"the body is over {self._max_bytes} bytes; send less, or start the server with a larger "
                "--max-body-bytes",
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
