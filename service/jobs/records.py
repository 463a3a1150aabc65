"""The table of jobs. Every change says which state it starts from, so that two who act at once cannot undo each other.

A job that is `running` when nobody runs it was left by a server that was killed; `recover` queues it again, up to
`LIVES` times: a job that takes its server down with it must not do so for ever.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from service.database import Database

State = Literal["queued", "running", "done", "failed", "cancelled"]

LIVES = 5
"""Servers that may end under a job before it is given up."""

NO_PROGRESS: dict[str, Any] = {"stage": None, "done": 0, "total": None, "eta_seconds": None}


@dataclass(frozen=True)
class Job:
    """One row."""

    id: str
    state: State
    asked: dict[str, Any]
    """`spec` (a name or an object) and `n`, as they came"""
    progress: dict[str, Any]
    error: str | None
    created: float
    """Seconds since 1970, as the two below"""
    started: float | None
    ended: float | None

    @property
    def name(self) -> str:
        """Of its spec."""
        spec = self.asked["spec"]
        return str(spec if isinstance(spec, str) else spec.get("name", "spec"))

    @property
    def over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in ("done", "failed", "cancelled")


class JobTable:
    """Jobs in the order they were asked for. Every method blocks for the length of a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job_id: str, asked: Mapping[str, Any]) -> Job:
        """A new job at the end of the queue."""
        with self._database.connect() as connection:
            connection.execute(
                "INSERT INTO jobs (id, state, asked, created) VALUES (?, 'queued', ?, ?)",
                (job_id, json.dumps(asked), time.time()),
            )
            return _get(connection, job_id)

    def find(self, job_id: str) -> Job | None:
        """One, or None when there is none of that id."""
        with self._database.connect() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def newest(self, limit: int) -> list[Job]:
        """The last ones asked for, newest first."""
        with self._database.connect() as connection:
            rows = connection.execute("SELECT * FROM jobs ORDER BY created DESC, rowid DESC LIMIT ?", (limit,))
            return [_job(row) for row in rows.fetchall()]

    def ids(self) -> frozenset[str]:
        """Of all jobs."""
        with self._database.connect() as connection:
            return frozenset(row["id"] for row in connection.execute("SELECT id FROM jobs").fetchall())

    def waiting(self) -> int:
        """How many are queued."""
        with self._database.connect() as connection:
            return int(connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0])

    def claim(self) -> Job | None:
        """The job that waits longest, running from now on; None when none waits."""
        with self._database.connect() as connection:
            row = connection.execute(
                "SELECT id FROM jobs WHERE state = 'queued' ORDER BY created, rowid LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            connection.execute("UPDATE jobs SET state = 'running', started = ? WHERE id = ?", (time.time(), row["id"]))
            return _get(connection, row["id"])

    def put_back(self, job_id: str) -> None:
        """A running job waits again, in its old place."""
        self._change("state = 'queued', started = NULL", "id = ? AND state = 'running'", job_id)

    def recover(self) -> None:
        """Put back what a killed server left running; give up what has outlived `LIVES` of them."""
        why = f"the server ended {LIVES} times while this ran; look into its log before asking for it again"
        with self._database.connect() as connection:
            connection.execute("UPDATE jobs SET interrupted = interrupted + 1 WHERE state = 'running'")
            connection.execute(
                "UPDATE jobs SET state = 'failed', error = ?, ended = ? WHERE state = 'running' AND interrupted >= ?",
                (why, time.time(), LIVES),
            )
            connection.execute("UPDATE jobs SET state = 'queued', started = NULL WHERE state = 'running'")

    def note(self, job_id: str, progress: Mapping[str, Any]) -> None:
        """How far a running job is."""
        self._change("progress = ?", "id = ? AND state = 'running'", json.dumps(progress), job_id)

    def end(self, job_id: str, *, error: str | None) -> None:
        """A running job is done, or failed for a reason."""
        state = "done" if error is None else "failed"
        self._change(
            "state = ?, error = ?, ended = ?", "id = ? AND state = 'running'", state, error, time.time(), job_id
        )

    def cancel(self, job_id: str) -> None:
        """What waits or runs is cancelled; whoever runs it notices."""
        self._change("state = 'cancelled', ended = ?", "id = ? AND state IN ('queued', 'running')", time.time(), job_id)

    def remove(self, job_id: str) -> bool:
        """Forget a job that is over; whether there was one."""
        with self._database.connect() as connection:
            found = connection.execute(
                "DELETE FROM jobs WHERE id = ? AND state IN ('done', 'failed', 'cancelled')", (job_id,)
            )
            return found.rowcount == 1

    def _change(self, what: str, where: str, *values: object) -> None:
        with self._database.connect() as connection:
            connection.execute(f"UPDATE jobs SET {what} WHERE {where}", values)


def _get(connection: sqlite3.Connection, job_id: str) -> Job:
    return _job(connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone())


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        state=cast(State, row["state"]),
        asked=json.loads(row["asked"]),
        progress=NO_PROGRESS | json.loads(row["progress"]),
        error=row["error"],
        created=row["created"],
        started=row["started"],
        ended=row["ended"],
    )
