"""The same answer while it is being written: server-sent events, one for each token of each choice.

Everything is checked and queued before a status is sent, and the status waits for the first token, so that a refusal
is a refusal. Later errors are told in the stream. The text that has gone out by then cannot be taken back: a choice is
complete, and its steering proved, when its `finish_reason` has come.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from service.answering import Choice, admit, choice_of, take_back, unless_disconnected, usage
from service.errors import document_of
from service.orders import Order
from service.protection.ledger import account_of
from service.resident import Resident
from service.streaming.feed import Feed, Told
from steering.engine import News
from steering.requests import Completion, Request

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, which clients pass over and proxies count as life."""
STALLED = 60.0
"""Seconds a client may take to read what was sent, before it is given up."""

_COMMENT = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

log = logging.getLogger("tiller")


@dataclass(frozen=True, eq=False)
class Chunk:
    """What is new of a choice: one token; or at last how it ended, and its report."""

    new: Choice
    """Holds only what is new"""
    first: bool
    last: bool

    @property
    def finish_reason(self) -> str | None:
        """Of the last chunk only."""
        return self.new.completion.finish_reason if self.last else None


Shape = Callable[[Chunk], dict[str, Any]]
"""A chunk as an entry of `choices`."""


async def stream(
    order: Order,
    http: HttpRequest,
    resident: Resident,
    *,
    frame: dict[str, Any],
    shape: Shape,
    with_usage: bool,
) -> EventStream:
    """Queue `order`, and answer it as it is written: `frame` around each chunk.

    Raises ApiError or TillerError for what goes wrong before there is anything to send.
    """
    feed = Feed()
    admission = partial(admit, order, resident.get(), account_of(http), feed.listener)
    rows, futures = await resident.aside(admission, rows=order.queued)
    for row, future in enumerate(futures):
        feed.watch(row, future)
    try:
        writer = _Writer(order, rows, frame=frame, shape=shape, with_usage=with_usage)
        events, error = await writer.write(await unless_disconnected(feed.take(KEEP_ALIVE), http))
        if error is not None:
            raise error
    except BaseException:
        take_back(futures)
        raise
    return EventStream(_events(writer, feed, events), futures)


class EventStream(StreamingResponse):
    """`text/event-stream`. When it ends, however it ends, the rows that still run are taken back."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], rows: Sequence[Future[Completion]]) -> None:
        super().__init__(events, headers=_HEADERS)
        self._rows = rows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until all is sent, the client has left, or it has stopped to read."""

        async def patiently(message: Message) -> None:
            async with asyncio.timeout(STALLED):
                await send(message)

        try:
            await super().__call__(scope, receive, patiently)
        except TimeoutError:
            log.warning("a stream was given up: its client read nothing for %g seconds", STALLED)
        finally:
            take_back(self._rows)


async def _events(writer: _Writer, feed: Feed, events: bytes) -> AsyncIterator[bytes]:
    error: Exception | None = None
    yield events or _COMMENT
    while error is None and not writer.over:
        told = await feed.take(KEEP_ALIVE)
        events, error = await writer.write(told)
        if events or not told:
            yield events or _COMMENT
    yield (b"" if error is None else _event(document_of(error))) + _DONE


class _Writer:
    """From what is told of the rows to events."""

    def __init__(
        self, order: Order, rows: Sequence[Request], *, frame: dict[str, Any], shape: Shape, with_usage: bool
    ) -> None:
        self._order, self._rows = order, rows
        self._frame = frame | ({"usage": None} if with_usage else {})
        self._shape, self._with_usage = shape, with_usage
        self._begun: set[int] = set()
        self._ended: dict[int, Choice] = {}

    @property
    def over(self) -> bool:
        """Whether every choice has ended."""
        return len(self._ended) == len(self._rows)

    async def write(self, told: Sequence[Told]) -> tuple[bytes, Exception | None]:
        """The events of what was told, and what went wrong behind them. Long prompts are told aside."""
        if any(isinstance(what, News) and what.prompt_logprobs for _, what in told):
            return await asyncio.to_thread(self._write, told)
        return self._write(told)

    def _write(self, told: Sequence[Told]) -> tuple[bytes, Exception | None]:
        events: list[bytes] = []
        try:
            events.extend(map(_event, self._documents(told)))
        except Exception as error:
            return b"".join(events), error
        return b"".join(events), None

    def _documents(self, told: Sequence[Told]) -> Iterator[dict[str, Any]]:
        for row, what in told:
            chunk = self._token(row, what) if isinstance(what, News) else self._end(row, what.result())
            yield self._frame | {"choices": [self._shape(chunk)]}
        if self.over and self._with_usage:
            choices = [self._ended[row] for row in range(len(self._rows))]
            yield self._frame | {"choices": [], "usage": usage(choices, self._order).model_dump()}

    def _token(self, row: int, news: News) -> Chunk:
        request, order = self._rows[row], self._order
        first = row not in self._begun
        self._begun.add(row)
        shown = not order.score_only
        new = Completion(
            text=news.text if shown else "",
            token_ids=[news.token_id] if shown else [],
            finish_reason="",
            prompt_tokens=0,
            steering=None,
            logprobs=None if news.logprob is None else [news.logprob] if shown else [],
            prompt_logprobs=news.prompt_logprobs,
        )
        told = request.plan is not None and request.token_scores
        choice = Choice.of(row, request, new, order, report={"tokens": list(news.scores)} if told else None)
        return Chunk(choice, first=first, last=False)

    def _end(self, row: int, completion: Completion) -> Chunk:
        choice = self._ended[row] = choice_of(row, self._rows[row], completion, self._order)
        done = choice.completion
        nothing_more = replace(
            done, text="", token_ids=[], logprobs=None if done.logprobs is None else [], prompt_logprobs=None
        )
        report = choice.steering and {name: value for name, value in choice.steering.items() if name != "tokens"}
        return Chunk(replace(choice, completion=nothing_more, steering=report), first=False, last=True)


def _event(document: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"
    )
