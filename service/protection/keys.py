"""Bearer keys as they are kept: names, limits and salted digests; a key itself is shown once and never stored.

A key is 256 random bits, so its digest needs no slow hash: those exist to make guessing a *weak* secret expensive, and
nobody guesses 256 bits, whereas 100 ms of bcrypt in each request would be a gift to whoever wants to keep us busy.
What is stored is HMAC-SHA256(salt, SHA-256(key)): the salt keeps equal keys from looking equal, and the inner hash
makes the work per stored key independent of what a caller sends.

Revoking deletes the digests: a revoked key *is* an unknown one, in reply and in time. Its row stays, so that a server
which has lost its last key stays closed (`forget` takes that too).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import time
from dataclasses import dataclass
from typing import Literal, get_args

from service.database import Database
from steering.errors import InvalidRequest

ENVIRONMENT = "environment"
"""The name of the key given as TILLER_API_KEY."""

_RESERVED = {ENVIRONMENT: "which is the key TILLER_API_KEY", "jobs": "which are a server's own evaluations"}

MAX_KEYS = 256
"""Names that may hold a key: each request is compared with all of them."""

_PREFIX = "tiller-"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SALT_BYTES = 16


Scope = Literal["generate", "admin"]
"""generate: ask for text and scores, and look. admin: change probes and policies and run evaluations, too."""


@dataclass(frozen=True)
class Key:
    """Whose key it is, and what it may do."""

    name: str
    created: float = 0.0
    expires: float | None = None
    """Seconds since 1970; None for never."""
    revoked: float | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_today: int = 0
    scope: Scope = "generate"

    def state(self, now: float) -> str:
        """active, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


@dataclass(frozen=True, repr=False)
class Secret:
    """What recognises a key, and says nothing else of it."""

    salt: bytes
    digest: bytes
    key: Key
    until: float | None
    """After this it is as if it had never been."""

    @classmethod
    def of(cls, text: str, key: Key) -> Secret:
        """The secret of a key that is not stored: that of the environment."""
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(salt, digest_of(fingerprint(text), salt), key, None)


def fingerprint(text: str) -> bytes:
    """SHA-256 of a key as it was sent, 32 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def digest_of(fingerprinted: bytes, salt: bytes) -> bytes:
    """HMAC-SHA256 of a fingerprint, 32 bytes: what is stored."""
    return hmac.digest(salt, fingerprinted, "sha256")


def today(now: float) -> int:
    """Days since 1970, UTC: budgets begin anew with each."""
    return int(now // 86_400)


class KeyStore:
    """The keys of one state folder. Every method blocks on the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        name: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_day: int | None = None,
        expires: float | None = None,
        scope: Scope = "generate",
    ) -> str:
        """A new key, which is returned and not kept. Raises InvalidRequest for a bad or taken name, or bad limits."""
        if scope not in get_args(Scope):
            raise InvalidRequest(f"--scope is {scope!r}; expected {' or '.join(get_args(Scope))}", param="scope")
        _check(name, requests_per_minute=requests_per_minute, tokens_per_day=tokens_per_day, expires=expires)
        with self._database.connect() as connection:
            there = connection.execute("SELECT revoked FROM keys WHERE name = ?", (name,)).fetchone()
            if there is not None and there["revoked"] is None:
                raise InvalidRequest(
                    f"there is a key {name!r} already; rotate it (tiller keys rotate {name}) or take another name",
                    param="name",
                )
            held = connection.execute("SELECT count(*) FROM keys WHERE revoked IS NULL").fetchone()[0]
            if held >= MAX_KEYS:
                raise InvalidRequest(
                    f"there are {held} keys, the most a server takes; revoke some (tiller keys revoke NAME)"
                )
            connection.execute(
                "INSERT OR REPLACE INTO keys (name, created, expires, requests_per_minute, tokens_per_day, scope) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (name, time.time(), expires, requests_per_minute, tokens_per_day, scope),
            )
            return _new_secret(connection, name)

    def rotate(self, name: str, *, grace: float = 0.0) -> str:
        """A new secret for a key, which is returned. The old one is good for `grace` seconds more.

        Raises InvalidRequest when there is no such key, or a negative grace.
        """
        if grace < 0:
            raise InvalidRequest(f"the old key cannot end {-grace:g} seconds ago; give 0 or more", param="grace")
        with self._database.connect() as connection:
            _demand_active(connection, name)
            connection.execute("DELETE FROM secrets WHERE key = ? AND (until IS NOT NULL OR ?)", (name, grace == 0))
            connection.execute("UPDATE secrets SET until = ? WHERE key = ?", (time.time() + grace, name))
            return _new_secret(connection, name)

    def revoke(self, name: str) -> int:
        """End a key at once, and return how many are left. Raises InvalidRequest when there is no such key."""
        with self._database.connect() as connection:
            _demand_active(connection, name)
            connection.execute("DELETE FROM secrets WHERE key = ?", (name,))
            connection.execute("UPDATE keys SET revoked = ? WHERE name = ?", (time.time(), name))
            left: int = connection.execute("SELECT count(*) FROM keys WHERE revoked IS NULL").fetchone()[0]
            return left

    def forget(self, name: str) -> None:
        """Delete a key and its usage as if it had never been. Raises InvalidRequest when there is none."""
        with self._database.connect() as connection:
            if not connection.execute("DELETE FROM keys WHERE name = ?", (name,)).rowcount:
                raise _unknown(connection, name)
            connection.execute("DELETE FROM secrets WHERE key = ?", (name,))
            connection.execute("DELETE FROM usage WHERE key = ?", (name,))

    def all(self) -> list[Key]:
        """All keys that were not forgotten, by name."""
        return list(self.read()[0].values())

    def read(self) -> tuple[dict[str, Key], list[Secret]]:
        """All keys, and what recognises those that were not revoked."""
        with self._database.connect() as connection:
            rows = connection.execute(
                "SELECT keys.*, coalesce(usage.tokens, 0) AS tokens_today FROM keys "
                "LEFT JOIN usage ON usage.key = keys.name AND usage.day = ? ORDER BY name",
                (today(time.time()),),
            ).fetchall()
            keys = {row["name"]: Key(**dict(row)) for row in rows}
            found = connection.execute("SELECT key, salt, digest, until FROM secrets").fetchall()
        return keys, [Secret(row["salt"], row["digest"], keys[row["key"]], row["until"]) for row in found]


def _new_secret(connection: sqlite3.Connection, name: str) -> str:
    text = _PREFIX + secrets.token_urlsafe(32)
    salt = secrets.token_bytes(_SALT_BYTES)
    connection.execute(
        "INSERT INTO secrets (key, salt, digest) VALUES (?, ?, ?)", (name, salt, digest_of(fingerprint(text), salt))
    )
    return text


def _demand_active(connection: sqlite3.Connection, name: str) -> None:
    if not connection.execute("SELECT 1 FROM keys WHERE name = ? AND revoked IS NULL", (name,)).fetchone():
        raise _unknown(connection, name)


def _unknown(connection: sqlite3.Connection, name: str) -> InvalidRequest:
    known = [row["name"] for row in connection.execute("SELECT name FROM keys WHERE revoked IS NULL ORDER BY name")]
    return InvalidRequest(
        f"there is no key {name!r}; {'known are: ' + ', '.join(known) if known else 'make one: tiller keys add NAME'}",
        param="name",
    )


def _check(name: str, *, requests_per_minute: int | None, tokens_per_day: int | None, expires: float | None) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise InvalidRequest(
            f"{name!r} cannot name a key; take up to 64 small letters, digits, dots, dashes and underscores, beginning "
            "with a letter or digit; not " + " or ".join(f"{taken!r}, {why}" for taken, why in _RESERVED.items()),
            param="name",
        )
    for flag, value in (("requests-per-minute", requests_per_minute), ("tokens-per-day", tokens_per_day)):
        if value is not None and not 1 <= value < 2**53:
            raise InvalidRequest(f"--{flag} is {value}; give at least 1, or leave it out for no limit", param=flag)
    if expires is not None and expires <= time.time():
        raise InvalidRequest("the key would have expired already; give --expires more than 0 days", param="expires")
