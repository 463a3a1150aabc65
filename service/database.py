"""What a server must not forget: one SQLite file, whose tables are made and brought up to date in one place.

A connection is opened per use and closed after it: SQLite does that in well under a millisecond, and no thread ever
holds another's. Writers wait for one another (`busy_timeout`); readers never wait (write-ahead log). A change is
committed when its block ends and is on the disk by then, so a killed process loses nothing it has confirmed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.migrations import MIGRATIONS
from steering.errors import ModelError

_BUSY_SECONDS = 10.0


class Database:
    """The file `tiller.db` of a state folder, made when absent.

    Raises ModelError when it cannot be made or read, or was written by a newer build.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "tiller.db"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)  # digests of keys, texts of jobs; SQLite's other files take after it
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            raise ModelError(
                f"the state folder {folder} cannot be used: {error}; give another with --state DIR, or mend it"
            ) from None

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are committed when the block ends, or undone when it raises."""
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            connection.close()

    def _migrate(self) -> None:
        with self.connect() as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version > len(MIGRATIONS):
                raise ModelError(
                    f"{self.path} is of version {version}, and this build knows {len(MIGRATIONS)}; update Tiller, or "
                    "give another folder with --state DIR"
                )
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
