"""Work beside the rows: what needs the bare model, done step by step between two turns of the engine.

Between turns no hook is on the model and no row is in the middle of a pass, so a step may run the model as it likes if
it leaves it as it found it. Its caches are its own. One step is taken per turn, so rows wait for one step at most;
what fails ends that work alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from steering.errors import DeadlineExceeded, EngineUnavailable

Result = TypeVar("Result", covariant=True)
Answer = TypeVar("Answer")


class Work(Protocol[Result]):
    """Something that ends after some bounded steps."""

    def step(self) -> bool:
        """Do a bounded piece; False when nothing is left."""

    def result(self) -> Result:
        """What came of it."""


class Aside:
    """The works that wait, first come, first served. `push` may be called from any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._works: deque[tuple[Work[Any], Future[Any], float | None]] = deque()
        self._open = True

    def __len__(self) -> int:
        return len(self._works)

    def push(self, work: Work[Answer], *, seconds: float | None) -> Future[Answer] | None:
        """Queue a work; None after `drain`, when nobody would find it. Raises EngineUnavailable when too many wait."""
        answer: Future[Answer] = Future()
        with self._lock:
            if not self._open:
                return None
            if len(self._works) >= self._most:
                raise EngineUnavailable(f"{self._most} texts wait to be scored already; try later", retry_after=1.0)
            self._works.append((work, answer, None if seconds is None else time.monotonic() + seconds))
        return answer

    def step(self) -> None:
        """One step of the first work; it leaves when it has ended, failed, run out of time or been cancelled."""
        with self._lock:
            if not self._works:
                return
            work, answer, deadline = self._works[0]
        if answer.cancelled():
            self._leave(answer, lambda: None)
        elif deadline is not None and time.monotonic() > deadline:
            late = DeadlineExceeded("the scores were not ready in the time this request has; send a shorter text")
            self._leave(answer, lambda: answer.set_exception(late))
        else:
            try:
                if work.step():
                    return
                result = work.result()
            except Exception as error:
                failed = error
                self._leave(answer, lambda: answer.set_exception(failed))
            else:
                self._leave(answer, lambda: answer.set_result(result))

    def drain(self) -> list[Future[Any]]:
        """Take the answers of all, and let nobody in any more."""
        with self._lock:
            self._open = False
            left = [answer for _, answer, _ in self._works]
            self._works.clear()
        return [answer for answer in left if answer.set_running_or_notify_cancel()]

    def _leave(self, answer: Future[Any], tell: Callable[[], None]) -> None:
        with self._lock:
            self._works.popleft()
        if answer.set_running_or_notify_cancel():  # once true, it can no longer be cancelled
            tell()
