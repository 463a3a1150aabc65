"""Tokens of each key and day: reserved before they are spent, charged one by one as they are written.

    charged + reserved <= tokens_per_day        at every moment, whatever arrives at once

A request reserves its prompts and all tokens it may write. Each new token moves one from reserved to charged, in the
engine's thread; what was not written is given back when the request ends, however it ends. So a stream that is left
half-way pays for that half (and for a token per row that was under way as it was left, beyond the budget if need be).
The counts go to the database within a second, as differences, so that servers which share a state folder share a
budget (between two of them, to within that second). A day is a day of UTC.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict

from fastapi import Request

from service.database import Database
from service.errors import CLIENT_GONE, INSUFFICIENT_QUOTA, ApiError
from service.protection.keys import Key, today
from steering.engine import Listener, News

_KEPT_DAYS = 31


class Account:
    """What one request may spend and has spent. Without a key nothing is counted. Safe from any thread."""

    def __init__(self, ledger: Ledger | None = None, key: Key | None = None) -> None:
        self._ledger = ledger
        self._key = key
        self._lock = threading.Lock()
        self._reserved = 0
        self._closed = False

    def reserve(self, tokens: int) -> None:
        """Set tokens aside. Raises ApiError 429 `insufficient_quota` when the day does not hold that many any more."""
        if self._ledger is not None and self._key is not None:
            with self._lock:
                if self._closed:
                    raise ApiError(CLIENT_GONE, "the client left before its request was admitted")
                self._ledger.reserve(self._key, tokens)
                self._reserved += tokens

    def charge(self, tokens: int) -> None:
        """Spend tokens, of those reserved as far as they last."""
        self._settle(tokens, freed=tokens)

    def spend(self, tokens: int) -> None:
        """Reserve and charge at once, all or nothing. Raises ApiError 429."""
        self.reserve(tokens)
        self.charge(tokens)

    def close(self) -> None:
        """Give back what was reserved and not spent; nothing can be reserved any more."""
        self._closed = True
        self._settle(0, freed=None)

    def counted(self, listener: Listener | None = None) -> Listener | None:
        """`listener` of a row, told as before, with every token charged."""
        if self._ledger is None:
            return listener

        def count(news: News) -> None:
            self.charge(1)
            if listener is not None:
                listener(news)

        return count

    def _settle(self, tokens: int, *, freed: int | None) -> None:
        if self._ledger is not None and self._key is not None:
            with self._lock:
                back = self._reserved if freed is None else min(freed, self._reserved)
                self._reserved -= back
                self._ledger.charge(self._key, tokens, freed=back)


def account_of(http: Request) -> Account:
    """The account of a request; one that counts nothing where no key was needed."""
    account: Account | None = getattr(http.state, "account", None)
    return account or Account()


class Ledger:
    """The counts of all keys, of today. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._day = today(time.time())
        self._stored: dict[str, int] = {}
        self._new: defaultdict[tuple[str, int], int] = defaultdict(int)
        """Charged, and not yet on its way to the database."""
        self._moving: dict[tuple[str, int], int] = {}
        """On its way."""
        self._reserved: defaultdict[str, int] = defaultdict(int)

    def reserve(self, key: Key, tokens: int) -> None:
        """Set tokens of a key aside, all or none. Raises ApiError 429."""
        with self._lock:
            spoken_for = self._spent(key.name) + self._reserved[key.name]
            if key.tokens_per_day is not None and spoken_for + tokens > key.tokens_per_day:
                raise _over_budget(key, wanted=tokens, left=max(0, key.tokens_per_day - spoken_for))
            self._reserved[key.name] += tokens

    def charge(self, key: Key, tokens: int, *, freed: int) -> None:
        """Count tokens as spent, and `freed` ones as no longer reserved."""
        with self._lock:
            self._reserved[key.name] -= freed
            if tokens:
                self._new[key.name, self._today()] += tokens

    def spent(self, name: str) -> int:
        """Tokens of a key that were charged today."""
        with self._lock:
            return self._spent(name)

    def sync(self, database: Database) -> None:
        """Add what is new to the database, and learn what others added. What cannot be written is kept for later."""
        with self._lock:
            self._moving, self._new = dict(self._new), defaultdict(int)
            day = self._today()
        rows = None
        try:
            with database.connect() as connection:
                connection.executemany(
                    "INSERT INTO usage (key, day, tokens) VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens",
                    [(name, on, tokens) for (name, on), tokens in self._moving.items()],
                )
                connection.execute("DELETE FROM usage WHERE day < ?", (day - _KEPT_DAYS,))
                rows = connection.execute("SELECT key, tokens FROM usage WHERE day = ?", (day,)).fetchall()
        finally:
            with self._lock:
                if rows is None:
                    for at, tokens in self._moving.items():
                        self._new[at] += tokens
                elif day == self._today():
                    self._stored = {row["key"]: row["tokens"] for row in rows}
                self._moving = {}

    @property
    def pending(self) -> bool:
        """Whether anything is not in the database yet, or a new day has begun."""
        with self._lock:
            return bool(self._new) or self._day != today(time.time())

    def _today(self) -> int:
        now = today(time.time())
        if now != self._day:
            self._day, self._stored = now, {}
        return now

    def _spent(self, name: str) -> int:
        day = self._today()
        return self._stored.get(name, 0) + self._new.get((name, day), 0) + self._moving.get((name, day), 0)


def _over_budget(key: Key, *, wanted: int, left: int) -> ApiError:
    assert key.tokens_per_day is not None
    seconds = max(1, round(86_400 - time.time() % 86_400))
    way_out = (
        "ask for fewer (max_tokens, n, shorter prompts)"
        if wanted > key.tokens_per_day
        else "ask for fewer (max_tokens, n), or wait for the next day (UTC)"
    )
    return ApiError(
        INSUFFICIENT_QUOTA,
        f"this request may take up to {wanted} tokens, and the key {key.name!r} has {left} left of its "
        f"{key.tokens_per_day} a day; {way_out}",
        headers={"retry-after": str(seconds), "x-should-retry": "false"},
    )
