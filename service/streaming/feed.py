"""From the engine's thread to the event loop: what is told of the rows of one request, until somebody takes it.

Telling never waits, whatever the reader does. What lies here is bounded by the request itself: its tokens, which its
limits have counted, and one end per row; as much as the answer would hold that is not streamed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress

from steering.engine import Listener, News
from steering.requests import Completion

Told = tuple[int, News | Future[Completion]]
"""A row, and its new token or its end."""


class Feed:
    """Made and read in an event loop; told from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._told: deque[Told] = deque()
        self._come = asyncio.Event()
        self._waking = False

    def listener(self, row: int) -> Listener:
        """What the engine should tell the tokens of `row`."""
        return lambda news: self._tell((row, news))

    def watch(self, row: int, answer: Future[Completion]) -> None:
        """Tell the end of `row` too, behind its last token."""
        answer.add_done_callback(lambda done: self._tell((row, done)))

    async def take(self, seconds: float) -> list[Told]:
        """All that has been told since the last call, in order; nothing after so many seconds of silence."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._has_come():
                    await self._come.wait()
                    self._come.clear()
        return [self._told.popleft() for _ in range(len(self._told))]

    def _has_come(self) -> bool:
        self._waking = False  # before looking: who tells later wakes again
        return bool(self._told)

    def _tell(self, told: Told) -> None:
        self._told.append(told)
        if not self._waking:  # once for all rows of a step
            self._waking = True
            with suppress(RuntimeError):  # the loop has been closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._come.set)
