"""Who waits, and who is next: first come, first served, within two classes.

A job is admitted when there is a slot for its row and room in the token budget for its prompt and all it may write, so
that what runs can always run to its end. Nobody overtakes for being smaller, with one exception: one long prompt is
read at a time, and while the next long one waits for its turn, short ones behind it may pass.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from steering.engine.job import Job
from steering.errors import EngineUnavailable


@dataclass
class Room:
    """What the engine can take in this moment."""

    slots: int
    tokens: int
    """Of the budget"""
    area: int
    """Rows times longest prompt of one pass over short prompts"""
    chunk: int
    """Longer prompts are long"""
    long: bool
    """Whether a long prompt may begin"""


class Waiting:
    """The queue between those who submit and the engine's thread. Every method may be called from any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[str, deque[Job]] = {"live": deque(), "background": deque()}
        self._changed = threading.Condition()
        self._woken = False
        self._open = True

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._queues.values()))

    def check_room(self, rows: int) -> None:
        """Raise EngineUnavailable when so many more would be too many."""
        waiting = len(self)
        if waiting + rows > self._most:
            raise EngineUnavailable(f"{waiting} requests are waiting already; try again later", retry_after=1.0)

    def push(self, *jobs: Job) -> bool:
        """Queue jobs, together: nobody sees some of them without the others. False after `drain`, when nobody would
        find them. Raises EngineUnavailable when too many wait.
        """
        with self._changed:
            if not self._open:
                return False
            self.check_room(len(jobs))
            for job in jobs:
                self._queues[job.priority].append(job)
            self._changed.notify()
            return True

    def wake(self) -> None:
        """Let `wait` return."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def wait(self) -> None:
        """Until a job waits, or `wake` was called."""
        with self._changed:
            while not self._woken and not any(self._queues.values()):
                self._changed.wait()
            self._woken = False

    def sweep(self) -> None:
        """Drop the jobs nobody waits for any longer."""
        with self._changed:
            waiting = [job for jobs in self._queues.values() for job in jobs]
        over = {job for job in waiting if job.is_over()}  # tells callers, who may queue again at once
        if over:
            with self._changed:
                for name, jobs in self._queues.items():
                    self._queues[name] = deque(job for job in jobs if job not in over)

    def admit(self, room: Room) -> tuple[list[Job], Job | None]:
        """Take who is next: short prompts that are read in one pass, and a long one."""
        short: list[Job] = []
        long: Job | None = None
        with self._changed:
            for jobs in self._queues.values():
                passed: list[Job] = []
                while jobs and room.slots > 0 and jobs[0].tokens <= room.tokens:
                    job = jobs[0]
                    if len(job.prompt) > room.chunk:
                        if long is None and room.long:
                            long = job
                        else:
                            passed.append(jobs.popleft())
                            continue
                    elif (len(short) + 1) * max(
                        len(job.prompt), *(len(other.prompt) for other in short), 1
                    ) > room.area:
                        break
                    else:
                        short.append(job)
                    jobs.popleft()
                    room.slots -= 1
                    room.tokens -= job.tokens
                jobs.extendleft(reversed(passed))
                if jobs:  # of a lower class nobody overtakes
                    break
        return short, long

    def drain(self) -> list[Job]:
        """Take everybody, and let nobody in any more."""
        with self._changed:
            self._open = False
            left = [job for jobs in self._queues.values() for job in jobs]
            for jobs in self._queues.values():
                jobs.clear()
        return left
