"""The tables of `service.database`, step by step. A step that was released is never changed; a new one is appended."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE policies (
            name TEXT PRIMARY KEY,
            body TEXT NOT NULL, -- the steering field, JSON
            about TEXT NOT NULL DEFAULT '',
            certificate TEXT, -- JSON of `tiller certify`, of this very body
            created REAL NOT NULL, -- seconds since 1970
            updated REAL NOT NULL
        ) STRICT""",
        """CREATE TABLE keys (
            name TEXT PRIMARY KEY,
            created REAL NOT NULL,
            expires REAL, -- NULL: never
            revoked REAL, -- NULL: not yet; the row stays, so that a server whose last key went is closed, not open
            requests_per_minute INTEGER, -- NULL: no limit
            tokens_per_day INTEGER -- NULL: no limit
        ) STRICT""",
        """CREATE TABLE secrets (
            key TEXT NOT NULL, -- keys.name; two rows while a rotated secret is still good
            salt BLOB NOT NULL,
            digest BLOB NOT NULL,
            until REAL -- NULL: as long as its key
        ) STRICT""",
        """CREATE TABLE usage (
            key TEXT NOT NULL,
            day INTEGER NOT NULL, -- since 1970, UTC
            tokens INTEGER NOT NULL,
            PRIMARY KEY (key, day)
        ) STRICT""",
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY,
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            asked TEXT NOT NULL, -- the request, JSON
            progress TEXT NOT NULL DEFAULT '{}', -- JSON
            error TEXT,
            created REAL NOT NULL,
            started REAL,
            ended REAL,
            interrupted INTEGER NOT NULL DEFAULT 0 -- servers that ended while it ran
        ) STRICT""",
    ),
    ("ALTER TABLE keys ADD COLUMN scope TEXT NOT NULL DEFAULT 'generate' CHECK (scope IN ('generate', 'admin'))",),
)
"""Statements by version: after all of them the file is of version `len(MIGRATIONS)`."""
