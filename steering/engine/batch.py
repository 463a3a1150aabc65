"""The rows of an engine: each in its slot, from the first token of its prompt to the last it writes.

    slots    0 ... n-1           rows that write, always neighbours: when one leaves, the last takes its place
             n ... n+m-1         short prompts, read in one pass; from then on they write
             `slots`             one long prompt, chunk by chunk; then its row moves to n

What fails in a row ends that row: NaN logits, a listener that raises, no memory for a prompt. What fails in a pass is
raised: the caches of all rows are then of unknown state.
"""

from __future__ import annotations

from functools import partial

from torch import OutOfMemoryError, Tensor

from steering.choosing import choose
from steering.engine.job import Job
from steering.engine.observer import Observer
from steering.engine.runner import Runner
from steering.errors import NotEnoughMemory, TillerError

_ONE_BY_ONE = 4
"""Tokens of a long prompt a turn reads of a model that reads behind others only one at a time."""


class Batch:
    """Rows in the first `slots` slots of `runner`, which has one more for the long prompt."""

    def __init__(self, runner: Runner, *, slots: int, chunk_tokens: int) -> None:
        self.slots = slots
        self.rows: list[Job] = []
        """Those that write, by slot"""
        self.reading: list[Job] = []
        """Short prompts of the pass that runs"""
        self.long: Job | None = None
        """The long prompt that is being read"""
        self.observer = Observer()
        self._runner = runner
        self._chunk_tokens = chunk_tokens

    @property
    def running(self) -> int:
        """Rows that write or whose long prompt is being read."""
        return len(self.rows) + (self.long is not None)

    @property
    def tokens(self) -> int:
        """What they hold at most, together."""
        return sum(job.tokens for job in self.everybody)

    @property
    def everybody(self) -> list[Job]:
        """Whoever has been admitted and not answered."""
        long = self.long  # read once: other threads look, too
        return [*self.rows, *self.reading, *([] if long is None else [long])]

    def drop_those_over(self) -> None:
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].is_over():
                self._leave(slot)
        if self.long is not None and self.long.is_over():
            self._drop_long()

    def begin_long(self, job: Job) -> None:
        """Give a long prompt its slot."""
        self.long = job
        self._runner.steering.join(self.slots, job.steered)

    def read_short(self, jobs: list[Job]) -> None:
        """Whole prompts in one pass; without memory for all of them one by one, and who still has none is told."""
        self.reading = jobs
        self._read_short(jobs)
        self.reading = []

    def _read_short(self, jobs: list[Job]) -> None:
        first, runner = len(self.rows), self._runner
        for at, job in enumerate(jobs):
            runner.steering.join(first + at, job.steered)
        whole = any(job.request.echo for job in jobs)
        try:
            logits = runner.read(
                first,
                [job.prompt for job in jobs],
                [0] * len(jobs),
                [-len(job.prompt) for job in jobs],
                whole=whole,
            )
        except Exception as error:
            told = _told(error)
            if told is None:
                raise
            for at in range(len(jobs)):
                runner.steering.leave(first + at)
            if len(jobs) == 1:
                jobs[0].fail(told)
                return
            for job in jobs:
                self._read_short([job])
            return
        for at, job in enumerate(jobs):
            job.read = len(job.prompt)
            if job.request.echo:
                job.writing.read_prompt(logits[at, -len(job.prompt) : -1])
        self.rows += jobs
        self._take(first, logits[:, -1] if whole else logits)

    def read_long(self) -> None:
        """The next chunk of the long prompt; after its last one the row joins those that write."""
        job, runner = self.long, self._runner
        assert job is not None
        one_by_one = job.read > 0 and not runner.continues
        for _ in range(_ONE_BY_ONE if one_by_one else 1):
            chunk = job.prompt[job.read :][: 1 if one_by_one else self._chunk_tokens]
            try:
                logits = runner.read(
                    self.slots, [chunk], [job.read], [job.read - len(job.prompt)], whole=job.request.echo
                )
            except Exception as error:
                told = _told(error)
                if told is None:
                    raise
                job.fail(told)
                self._drop_long()
                return
            job.read += len(chunk)
            if job.request.echo:
                job.writing.read_prompt(logits[0, : len(job.prompt) - len(job.writing.prompt_logprobs)])
                logits = logits[:, -1]
            if job.read == len(job.prompt):
                slot = len(self.rows)
                runner.cache.move(self.slots, slot, job.read)
                runner.steering.move(self.slots, slot)
                self.rows.append(job)
                self.long = None
                self._take(slot, logits)
                if job.ended:  # perhaps with NaN
                    runner.cache.clear(self.slots)
                return

    def _drop_long(self) -> None:
        """Free the slot of the long prompt before it has been read."""
        self._runner.steering.leave(self.slots)
        self._runner.cache.clear(self.slots)
        self.long = None

    def write(self) -> None:
        """One token of every row."""
        if not self.rows:
            return
        self.observer.stepped(len(self.rows))
        logits = self._runner.read(
            0,
            [[job.writing.token_ids[-1]] for job in self.rows],
            [job.read for job in self.rows],
            [job.offset for job in self.rows],
            whole=False,
        )
        for job in self.rows:
            job.read += 1
        self._take(0, logits)

    def _take(self, first: int, logits: Tensor) -> None:
        """Draw the next token of the rows from `first` on; those that end with it leave."""
        jobs = self.rows[first:]
        drawn = choose([job.chooser for job in jobs], logits)
        for slot in reversed(range(first, first + len(jobs))):
            job, token = self.rows[slot], drawn[slot - first]
            try:
                if isinstance(token, Exception):
                    raise token
                job.writing.take(token, logits[slot - first])
                job.tick()
                job.tell(token, partial(self._runner.steering.fresh_scores, slot))
            except Exception as error:
                job.fail(error)
                self._runner.cache.clear(slot)
                self._leave(slot)
                continue
            if job.writing.finish_reason is not None:
                report = self._runner.steering.report(slot, finish=job.writing.finish_reason)
                self._leave(slot)
                job.finish(job.writing.complete(report))

    def _leave(self, slot: int) -> None:
        """Free a slot; the last row takes its place."""
        last = len(self.rows) - 1
        self._runner.steering.leave(slot)
        if slot != last:
            self._runner.cache.move(last, slot, self.rows[last].read)
            self._runner.steering.move(last, slot)
            self.rows[slot] = self.rows[last]
        self.rows.pop()


def _told(error: Exception) -> Exception | None:
    """What the one whose prompt it was is told of a failure that is his alone; None for one that is everybody's."""
    if isinstance(error, TillerError):
        return error
    memory = isinstance(error, (OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)
    if not memory:
        return None
    return NotEnoughMemory("there was no memory left to read this prompt; shorten it, or try later", retry_after=5.0)
