"""One HTTP request, from its first byte to its last: its id, and what is noted down about it while it is answered.

`Visits` is the outermost middleware. It takes the caller's `x-request-id` or makes one, sends it back on every reply,
binds it to every log line, logs what nobody caught, and hands each visit that has ended to those who count, log and
trace.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from steering.requests import Completion

HEADER = "x-request-id"
GENERATING = frozenset({"/generate", "/v1/completions", "/v1/chat/completions"})
"""Routes that ask the engine for text: refused while draining, and their refusals are counted by reason."""

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CURRENT: ContextVar[Visit | None] = ContextVar("visit", default=None)

log = logging.getLogger("tiller")


@dataclass(eq=False)
class Visit:
    """What is known of one request so far."""

    id: str
    method: str
    path: str
    """As it was sent: for comparing, never for a log line or a label."""
    headers: Headers
    route: str = "unmatched"
    """The template, as `/v1/steering/probes/{probe_id}`."""
    started: float = field(default_factory=time.time)
    """On the clock of the wall, for traces."""
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    status: int | None = None
    """Of the reply; None when its sender was cut off before any."""
    key: str | None = None
    """Name of the key it came with, where there are keys."""
    refused: str | None = None
    """Code of the error that was its answer."""
    reason: str | None = None
    """The same, told apart where one code has several reasons."""
    mode: str = "none"
    """enforce, monitor or off; none without steering."""
    probes: tuple[str, ...] = ()
    prompts: Sequence[object] = ()
    """As they were sent: text or token ids."""
    rows: int = 0
    """Continuations that were admitted."""
    completions: list[Completion] = field(default_factory=list)
    """Those that were written to their end."""

    @property
    def generates(self) -> bool:
        """Whether text is asked for."""
        return generates(self.method, self.path)

    @property
    def prompt_tokens(self) -> int:
        """Read for the finished continuations; a prompt counts for each of its continuations."""
        return sum(completion.prompt_tokens for completion in self.completions)

    @property
    def tokens(self) -> int:
        """Written for them."""
        return sum(len(completion.token_ids) for completion in self.completions)

    @property
    def finish_reasons(self) -> dict[str, int]:
        """How many ended how."""
        return dict(Counter(completion.finish_reason for completion in self.completions))


def generates(method: str, path: str) -> bool:
    """Whether a request asks the engine for text."""
    return method == "POST" and path in GENERATING


def current() -> Visit | None:
    """The visit this code runs for, if it runs for one."""
    return _CURRENT.get()


def admitted(
    futures: Sequence[Future[Completion]], *, probes: Iterable[str], mode: str, prompts: Sequence[object]
) -> None:
    """Note the rows that were queued for the current visit."""
    visit = current()
    if visit is None:
        return
    visit.rows += len(futures)
    visit.mode, visit.probes = mode, tuple(dict.fromkeys(probes))
    visit.prompts = prompts

    def written(future: Future[Completion]) -> None:
        if not future.cancelled() and future.exception() is None:
            visit.completions.append(future.result())

    for future in futures:
        future.add_done_callback(written)


def refused(code: str, *, reason: str) -> None:
    """Note that the answer to the current visit is an error."""
    visit = current()
    if visit is not None:
        visit.refused, visit.reason = code, reason


class Drain:
    """Whether the server still takes work, and whose answers it still owes."""

    def __init__(self) -> None:
        self.began = False
        self._open: set[Visit] = set()

    def begin(self) -> None:
        """Take no new work."""
        self.began = True

    @property
    def done(self) -> bool:
        """Whether all that was taken before has been answered."""
        return not self._open

    def enter(self, visit: Visit) -> None:
        """A visit that came in time."""
        self._open.add(visit)

    def leave(self, visit: Visit) -> None:
        """It has been answered."""
        self._open.discard(visit)


class Visits:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, *, drain: Drain, ended: Sequence[Callable[[Visit], None]]) -> None:
        self._app = app
        self._drain = drain
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a visit, answer it, close it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        visit = Visit(_id(headers), scope["method"], scope["path"], headers)

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                MutableHeaders(scope=message)[HEADER] = visit.id
            await send(message)

        token = _CURRENT.set(visit)
        try:
            with bound_contextvars(request_id=visit.id):
                try:
                    await self._answer(visit, scope, receive, reply)
                finally:
                    visit.seconds = time.monotonic() - visit.began
                    visit.route = _route(scope)
                    visit.key = scope.get("state", {}).get("key")
                    for told in self._ended:
                        told(visit)
        finally:
            _CURRENT.reset(token)

    async def _answer(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._drain.began:
            self._drain.enter(visit)
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            log.error("a request failed in a way nobody had foreseen", exc_info=error)
        finally:
            self._drain.leave(visit)


def _id(headers: Headers) -> str:
    given = headers.get(HEADER, "")
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex


def _route(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return str(scope["path"]) if scope["path"] in GENERATING else "unmatched"
