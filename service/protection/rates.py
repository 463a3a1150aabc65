"""How often a key may ask, and how many of its requests may run at a time.

A bucket holds `requests_per_minute` tokens and gets them back evenly: a burst of a minute's worth is taken at once, and
no 60 seconds hold more than twice that. Buckets live in memory: a restart fills them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

from service.errors import RATE_LIMITED, ApiError
from service.protection.keys import Key


class Rates:
    """The buckets and running requests of all keys. For one thread, that of the event loop."""

    def __init__(self, *, max_running: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_running = max_running
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}
        """What is in it, and when that was counted."""

    def enter(self, key: Key) -> None:
        """Begin a request, which `leave` ends. Raises ApiError 429 `rate_limit_exceeded` with the seconds to wait."""
        if self._running[key.name] >= self._max_running:
            raise _too_often(
                f"{self._running[key.name]} requests of the key {key.name!r} are being answered, the most a key may "
                "have at a time; wait for one to end, or start the server with a larger --max-requests-per-key",
                seconds=1,
            )
        self._take(key)
        self._running[key.name] += 1

    def leave(self, key: Key) -> None:
        """End a request that was let in."""
        self._running[key.name] -= 1

    def _take(self, key: Key) -> None:
        limit = key.requests_per_minute
        if limit is None:
            return
        now = self._clock()
        held, since = self._buckets.get(key.name, (float(limit), now))
        held = min(float(limit), held + (now - since) * limit / 60)
        if held < 1:
            self._buckets[key.name] = held, now
            raise _too_often(
                f"the key {key.name!r} may ask {limit} times a minute; wait, and ask less often",
                seconds=max(1, math.ceil((1 - held) * 60 / limit)),
            )
        self._buckets[key.name] = held - 1, now


def _too_often(message: str, *, seconds: int) -> ApiError:
    return ApiError(RATE_LIMITED, message, headers={"retry-after": str(seconds)})
