"""Keys, budgets and rates of one app, and the thread that keeps them and the database in step."""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import closing

from service.database import Database
from service.protection.keyring import Keyring, environment_key
from service.protection.keys import KeyStore
from service.protection.ledger import Ledger
from service.protection.rates import Rates
from service.settings import Settings

_SECONDS = 0.4
"""Between two looks at the database: a change is seen within a second."""

log = logging.getLogger("tiller")


class Guards:
    """Requests read these from memory; only the thread, `open` and `close` touch the disk.

    Raises InvalidRequest when TILLER_API_KEY is no good key.
    """

    def __init__(self, settings: Settings) -> None:
        self.keyring = Keyring(require=settings.require_key, environment=environment_key())
        self.ledger = Ledger()
        self.rates = Rates(max_running=settings.max_requests_per_key)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, database: Database) -> None:
        """Read everything once, then keep it fresh until `close`. Blocks for the reading."""
        self._refresh(database)
        self.ledger.sync(database)
        self._thread = threading.Thread(target=self._watch, args=(database,), name="tiller-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is not yet written and end the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _refresh(self, database: Database) -> None:
        keys, secrets = KeyStore(database).read()
        self.keyring.replace(keys, secrets)

    def _watch(self, database: Database) -> None:
        """SQLite's data_version tells for the price of one read whether anybody has written."""
        seen: int | None = None
        working = True
        with closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
            while True:
                last = self._ended.wait(_SECONDS)
                try:
                    now = int(reader.execute("PRAGMA data_version").fetchone()[0])
                    if now != seen:
                        self._refresh(database)
                    if now != seen or self.ledger.pending:
                        self.ledger.sync(database)
                    seen = now
                    working = True
                except (sqlite3.Error, OSError) as error:
                    if working:
                        log.error("keys and budgets cannot be read or written, and are kept as they were: %s", error)
                    working = False
                if last:
                    return
