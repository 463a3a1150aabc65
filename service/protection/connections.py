"""What no caller may do below HTTP: open connections without end, send a head or take a reply too slowly.

uvicorn on its own (0.54, tried with bare sockets) waits for a head for ever, lets a peer that does not read keep its
connection for ever, takes a head of 60 KB that comes in one piece although it is told 16, answers what is no HTTP, and
what is over its `limit_concurrency`, in plain text, and does not count connections that send nothing. This is its
protocol with clocks:

    head    `header_seconds` from the first byte (or from connecting) to the empty line: 408
    reply   `write_seconds` for the peer to read what waits, and a second more for each 16 KiB of it: cut
    count   connections over `max_connections`: 503 for the next 64 of them, and none beyond
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import HEAD_TOO_SLOW, HEADERS_TOO_LARGE, NOT_HTTP, TOO_MANY_CONNECTIONS, ApiError, reply
from service.settings import Settings

_TOLD = 64
"""Connections over the limit that are told so, before any more are cut."""

_TOLD_SECONDS = 2.0
_SLOWEST = 16 << 10
"""Bytes a second a peer must read."""


@dataclass(frozen=True)
class Limits:
    """Of each connection, and of their number."""

    connections: int
    header_seconds: float
    write_seconds: float


def protocol(settings: Settings) -> type[H11Protocol]:
    """For `uvicorn.Config(http=...)`."""
    found = Limits(settings.max_connections, settings.header_seconds, settings.write_seconds)
    return type("LimitedConnection", (_Limited,), {"limits": found})


class _Limited(H11Protocol):
    limits: ClassVar[Limits]

    _head_clock: asyncio.TimerHandle | None = None
    _write_clock: asyncio.TimerHandle | None = None
    _surplus = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        over = len(self.connections) - self.limits.connections
        if over > _TOLD:
            transport.abort()
            return
        self._surplus = over > 0
        seconds = _TOLD_SECONDS if self._surplus else self.limits.header_seconds
        self._head_clock = self.loop.call_later(seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_clock()
        self._stop_write_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._surplus:
            self._refuse(
                ApiError(
                    TOO_MANY_CONNECTIONS,
                    f"this server has its {self.limits.connections} connections; try again soon",
                    headers={"retry-after": "1"},
                )
            )
            return
        super().data_received(data)
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._stop_head_clock()
        elif self._head_clock is None:
            self._head_clock = self.loop.call_later(self.limits.header_seconds, self._head_is_late)

    def send_400_response(self, msg: str) -> None:
        """Called while the exception that says what is wrong with the bytes is being handled."""
        found = sys.exception()
        if isinstance(found, h11.RemoteProtocolError) and found.error_status_hint == 431:
            self._refuse(
                ApiError(HEADERS_TOO_LARGE, "the head of the request is too long; send fewer or shorter headers")
            )
        else:
            self._refuse(ApiError(NOT_HTTP, "this is no valid HTTP/1.1 request"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_clock()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_clock()
        if self.cycle is None or self.cycle.response_complete:
            self._watch_the_rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_the_rest()

    def _head_is_late(self) -> None:
        self._head_clock = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            seconds = self.limits.header_seconds
            self._refuse(ApiError(HEAD_TOO_SLOW, f"the head of the request was not whole within {seconds:g} seconds"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Write a reply without an app, and close. A reply that has begun can only be cut."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = reply(error)
            headers = [*response.raw_headers, (b"connection", b"close"), (b"cache-control", b"no-store")]
            start = h11.Response(status_code=response.status_code, headers=headers, reason=error.kind.code.encode())
            events = (start, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
        self._watch_the_rest()

    def _watch_the_rest(self) -> None:
        """What waits to be read when nothing more will be written."""
        if self.transport.get_write_buffer_size():
            self._start_write_clock()

    def _start_write_clock(self) -> None:
        if self._write_clock is None:
            seconds = self.limits.write_seconds + self.transport.get_write_buffer_size() / _SLOWEST
            self._write_clock = self.loop.call_later(seconds, self._peer_does_not_read)

    def _peer_does_not_read(self) -> None:
        self._write_clock = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _stop_head_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _stop_write_clock(self) -> None:
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None
