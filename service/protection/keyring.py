"""Who sent this key? Answered from memory, in the same time for every key that is not good.

All secrets are compared, each in constant time, and none ends the search; so the time tells how many keys there are,
and nothing of which, or how nearly, one fits.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Mapping, Sequence

from service.protection.keys import ENVIRONMENT, Key, Secret, digest_of, fingerprint
from steering.errors import InvalidRequest

VARIABLE = "TILLER_API_KEY"
"""One key of scope admin and without limits, for set-ups that have no place for a state folder."""

_MIN_LENGTH = 16


def environment_key() -> str | None:
    """The key given as TILLER_API_KEY, if there is one. Raises InvalidRequest, without showing it, for a bad one."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    if len(text) < _MIN_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidRequest(
            f"{VARIABLE} is no good key: take at least {_MIN_LENGTH} printable ASCII characters without spaces, "
            "such as those of: openssl rand -hex 32",
            param="api_key",
        )
    return text


class Keyring:
    """The keys of a server, as they were when last read.

    `closed` says whether a key is demanded at all. It never becomes False again while the server runs: the last key's
    end must not open the doors.
    """

    def __init__(self, *, require: bool = False, environment: str | None = None) -> None:
        self.closed = require or environment is not None
        own = [] if environment is None else [Secret.of(environment, Key(ENVIRONMENT, scope="admin"))]
        self._own: tuple[Secret, ...] = tuple(own)
        self._secrets = self._own

    def lend(self, name: str, text: str) -> None:
        """Take one more key for as long as this process lives: for work of our own that comes back over HTTP."""
        lent = Secret.of(text, Key(name))
        self._own, self._secrets = (*self._own, lent), (*self._secrets, lent)

    def replace(self, keys: Mapping[str, Key], secrets: Sequence[Secret]) -> None:
        """Take what the database holds now. One assignment, so no reader sees half of it."""
        self._secrets = (*self._own, *secrets)
        self.closed = self.closed or bool(keys)

    def find(self, text: str) -> Key | None:
        """The key that `text` is; None when it is unknown, revoked, expired or rotated away."""
        now, sent, found = time.time(), fingerprint(text), None
        for secret in self._secrets:
            equal = hmac.compare_digest(digest_of(sent, secret.salt), secret.digest)
            lasts = (secret.until is None or secret.until > now) and secret.key.state(now) == "active"
            found = secret.key if equal and lasts else found
        return found
