"""Who runs the queue: one thread, which starts what waits, notes how far it is, and ends what was cancelled.

The table is the only truth: a cancellation is a row this thread notices. Of several servers with one state folder the
first runs the jobs, and the next one when it has gone.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from service.jobs.child import LOG, Child, why_it_ended
from service.jobs.launch import PROGRESS, Launch
from service.jobs.records import JobTable

_BUSY, _IDLE = 0.3, 2.0
"""Seconds between two looks, with jobs running and without."""
_AGAIN = 5.0
"""Seconds before the next try after the disk or the database failed."""
_LAST_BYTES = 2000

log = logging.getLogger("tiller")


class JobQueue:
    """Runs the jobs of `table`, up to `settings.max_jobs` at a time."""

    def __init__(self, table: JobTable, launch: Launch) -> None:
        self.table = table
        self.launch = launch
        self._running: dict[str, Child] = {}
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiller-jobs", daemon=True)

    def begin(self) -> None:
        """Start, once the server can answer."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the table now."""
        self._woken.set()

    def stop(self) -> None:
        """Begin to end: running jobs are put back into the queue. Returns at once, and may be called from a signal."""
        self._stopped.set()
        self._woken.set()

    def close(self) -> None:
        """End, and wait for it."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        lock = FileLock(self.launch.home / ".lock")
        if not self._acquired(lock):
            return
        try:
            self._attempt(self.table.recover)
            self._attempt(lambda: self.launch.sweep(self.table.ids()))
            while not self._stopped.is_set():
                self._attempt(self._look)
                self._woken.wait(_BUSY if self._running else _IDLE)
                self._woken.clear()
            for job_id, child in self._running.items():
                child.stop()
                self._attempt(partial(self.table.put_back, job_id))
        finally:
            lock.release()

    def _acquired(self, lock: FileLock) -> bool:
        """Whether this server runs the jobs; waits until it may, or is told to stop."""
        told = False
        while not self._stopped.is_set():
            with suppress(Timeout):
                self.launch.home.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock.acquire(timeout=0)
                return True
            if not told:
                log.info("another server runs the evaluations of this state folder; this one waits for it to end")
                told = True
            self._stopped.wait(_IDLE)
        return False

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do it; a full disk or a busy database is logged, and the next round tries again."""
        try:
            work()
        except (OSError, sqlite3.Error) as error:
            log.error("the list of evaluations could not be kept: %s", error)
            self._stopped.wait(_AGAIN)

    def _look(self) -> None:
        for job_id, child in list(self._running.items()):
            self._follow(job_id, child)
        while len(self._running) < self.launch.settings.max_jobs and self._start_one():
            pass

    def _follow(self, job_id: str, child: Child) -> None:
        job = self.table.find(job_id)
        if job is None or job.state != "running":
            child.stop()
            del self._running[job_id]
            self.launch.clear(job_id)
            return
        code, told = child.code, child.told()
        if "stage" in told and job.progress != told:
            self.table.note(job_id, told)
        if code is None or self._stopped.is_set():  # what fails while the server ends is put back
            return
        error = why_it_ended(code, told)
        if error is not None:
            log.warning("evaluation %s failed (%s); its last words:\n%s", job_id, error, self._last_words(job_id))
            error = self.launch.without_paths(error)
        child.close()
        del self._running[job_id]
        self.table.end(job_id, error=error)

    def _start_one(self) -> bool:
        """Whether the job that waits longest was taken up, well or not."""
        job = self.table.claim()
        if job is None:
            return False
        folder = self.launch.folder(job.id)
        if _held(folder):
            self.table.put_back(job.id)
            return False
        try:
            self._running[job.id] = Child(
                self.launch.arguments(job.asked, check=False),
                folder=folder,
                progress=PROGRESS,
                environment=self.launch.environment(),
            )
        except OSError as error:
            self.table.end(job.id, error=f"its process could not be started: {error.strerror}")
        return True

    def _last_words(self, job_id: str) -> str:
        try:
            return (self.launch.folder(job_id) / LOG).read_text(encoding="utf-8", errors="replace")[-_LAST_BYTES:]
        except OSError:
            return "(none)"


def _held(folder: Path) -> bool:
    """Whether a run of a server that was killed is still ending there."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False  # the folder is gone, which starting will say
    lock.release()
    return False
