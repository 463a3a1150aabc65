"""The one owner of the model: a thread that reads prompts, writes tokens, and lets rows join and leave in between.

A turn of the engine is one pass over prompts, if any wait, then one decoding step of every row that writes. So nobody
waits for the slowest of a batch, and a long prompt, read in chunks, delays others' next token by one chunk at most:

    slots    0 ... n-1           rows that write, always neighbours: when one leaves, the last takes its place
             n ... n+m-1         short prompts, read in one pass; from then on they write
             `slots`             one long prompt, chunk by chunk; then its row moves to n

Each row has its own plan, sampling, seed and account, and no row can feel another. What fails in a row ends that row:
NaN logits, a listener that raises, no memory for a prompt. A failure of a pass ends the engine: everybody is told.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from itertools import chain

from torch import OutOfMemoryError, Tensor

from steering.choosing import choose
from steering.engine.job import Job, Listener, Priority
from steering.engine.packed import packs_by_itself
from steering.engine.runner import Runner
from steering.engine.waiting import Room, Waiting
from steering.errors import EngineUnavailable, NotEnoughMemory, PromptTooLong, TillerError
from steering.models import LanguageModel
from steering.requests import Completion, Request, encode
from steering.selftest import SelfTest, self_test

ROW_TOKENS = 2048
"""Of one row, prompt and continuation, where the model's context is longer or unbounded."""
_ONE_BY_ONE = 4
"""Tokens of a long prompt a turn reads of a model that reads behind others only one at a time."""


class Engine:
    """Runs requests on one model. Starts after the self-test; use as a context manager or call `close`.

    `slots` rows are written together. A row holds at most `row_tokens` tokens, and all of them together `cache_tokens`
    (by default, as many as there is room for). Prompts are read `chunk_tokens` at a time. `max_queue` requests may
    wait. `pack` keeps the weights twice for faster steps on a CPU (`steering.engine.packed`); by default, where they
    are few. Raises SelfTestFailed when the model cannot be steered, UnsupportedModel for caches or attention it does
    not know.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        slots: int = 16,
        row_tokens: int | None = None,
        cache_tokens: int | None = None,
        chunk_tokens: int = 256,
        max_queue: int = 256,
        pack: bool | None = None,
    ) -> None:
        self.lm = lm
        self.slots = slots
        self.row_tokens = min(row_tokens or ROW_TOKENS, lm.context or row_tokens or ROW_TOKENS)
        self.cache_tokens = cache_tokens or slots * self.row_tokens
        self.chunk_tokens = min(chunk_tokens, self.row_tokens)
        self.self_test: SelfTest = self_test(lm)
        self._waiting = Waiting(max_queue)
        self._rows: list[Job] = []
        """Those that write, by slot"""
        self._long: Job | None = None
        self._short_turn = True
        self._closing, self._stopping = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        packs = packs_by_itself(lm.model) if pack is None else pack
        self._runner = Runner(lm, slots=slots + 1, row_tokens=self.row_tokens, pack=packs)
        self._thread = threading.Thread(target=self._run, name="tiller-engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine's thread, if anything did."""
        return self._failure

    @property
    def alive(self) -> bool:
        """Whether requests are still being taken."""
        return self._thread.is_alive() and not self._closing.is_set()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rows that write or whose prompt is being read."""
        return len(self._rows) + (self._long is not None)

    @property
    def cache_bytes(self) -> int:
        """What the cache takes, once and for all."""
        return self._runner.cache.bytes

    def check(self, request: Request) -> int:
        """Raise what `submit` would raise for this request, and return the number of its prompt tokens."""
        return len(self._checked(request))

    def submit(
        self,
        request: Request,
        *,
        priority: Priority = "live",
        seconds: float | None = None,
        listener: Listener | None = None,
    ) -> Future[Completion]:
        """Queue a request that has been checked first. Its future can be cancelled at any time, between two steps.

        After `seconds` its answer is DeadlineExceeded. `listener` is told every token. Raises InvalidRequest and its
        kin at once, EngineUnavailable when the queue is full or the engine has ended.
        """
        job = Job.of(self.lm, request, self._checked(request), priority=priority, listener=listener)
        if seconds is not None:
            job.deadline = job.began + seconds
        if not self.alive or not self._waiting.push(job):
            raise self._ended()
        return job.answer

    def stop(self) -> None:
        """End within a step: what runs or waits gets EngineUnavailable. For a drain that has taken too long."""
        self._closing.set()
        self._stopping.set()
        self._waiting.wake()

    def close(self) -> None:
        """Answer what is queued, then end the thread. Safe to call twice."""
        self._closing.set()
        self._waiting.wake()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _checked(self, request: Request) -> list[int]:
        prompt = encode(self.lm, request.prompt, max_tokens=request.sampling.max_tokens)
        wanted, most = len(prompt) + request.sampling.max_tokens, min(self.row_tokens, self.cache_tokens)
        if wanted > most:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens and {request.sampling.max_tokens} more are asked for, but this "
                f"engine holds {most} tokens of a request; shorten it, or start the engine with more row_tokens "
                "(--row-tokens)",
                param="prompt",
            )
        request.sampling.check_vocabulary(self.lm.vocabulary)
        if request.plan is not None:
            request.plan.check_representable(self.lm.dtype)
            request.plan.check_model(self.lm.model)
        return prompt

    def _ended(self) -> EngineUnavailable:
        reason = f"it failed ({type(self._failure).__name__})" if self._failure else "it is shutting down"
        return EngineUnavailable(f"the engine takes no requests: {reason}; restart the server or ask another")

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as failure:
            self._failure = failure
        finally:
            self._closing.set()
            told = (
                "the engine failed while it ran this request"
                if self._failure
                else "the engine was stopped before this answer was ready; ask another server"
            )
            left = chain(self._rows, [self._long] if self._long else [], self._waiting.drain())
            for job in list(left):
                job.fail(EngineUnavailable(told))

    def _turn(self) -> bool:
        """Read some of the prompts that wait, then write a token in every row; False when all is done."""
        if self._stopping.is_set():
            return False
        if not self.running and not len(self._waiting):
            if self._closing.is_set():
                return False
            self._waiting.wait()
            return True
        self._waiting.sweep()
        self._drop_those_over()
        self._read_prompts()
        self._write()
        return True

    def _drop_those_over(self) -> None:
        for slot in reversed(range(len(self._rows))):
            if self._rows[slot].is_over():
                self._leave(slot)
        if self._long is not None and self._long.is_over():
            self._runner.steering.leave(self.slots)
            self._long = None

    def _read_prompts(self) -> None:
        """One pass: over short prompts, or over a chunk of the long one; in turns when both wait."""
        held = sum(job.tokens for job in self._rows) + (self._long.tokens if self._long else 0)
        idle = not self._rows and self._long is None
        room = Room(
            slots=self.slots - self.running,
            tokens=self.cache_tokens - held,
            area=self.chunk_tokens * (4 if idle else 1),
            chunk=self.chunk_tokens,
            long=self._long is None,
        )
        if self._long is not None and not self._short_turn:
            self._short_turn = True
            self._read_long()
            return
        short, long = self._waiting.admit(room)
        if long is not None:
            self._long = long
            self._runner.steering.join(self.slots, long.steered)
        self._short_turn = False
        if short:
            self._read_short(short)
        elif self._long is not None:
            self._read_long()

    def _read_short(self, jobs: list[Job]) -> None:
        """Whole prompts in one pass; without memory for all of them one by one, and who still has none is told."""
        first, runner = len(self._rows), self._runner
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
            for at in range(len(jobs)):
                runner.steering.leave(first + at)
            told = _told(error)
            if told is None:
                for job in jobs:
                    job.fail(EngineUnavailable("the engine failed while it ran this request"))
                raise
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
        self._rows += jobs
        self._take(first, logits[:, -1] if whole else logits)

    def _read_long(self) -> None:
        """The next chunk of the long prompt; after its last one the row joins those that write."""
        job, runner = self._long, self._runner
        assert job is not None
        one_by_one = job.read > 0 and not runner.continues
        for _ in range(_ONE_BY_ONE if one_by_one else 1):
            chunk = job.prompt[job.read :][: 1 if one_by_one else self.chunk_tokens]
            try:
                logits = runner.read(
                    self.slots, [chunk], [job.read], [job.read - len(job.prompt)], whole=job.request.echo
                )
            except Exception as error:
                told = _told(error)
                if told is None:
                    raise
                job.fail(told)
                runner.steering.leave(self.slots)
                self._long = None
                return
            job.read += len(chunk)
            if job.request.echo:
                job.writing.read_prompt(logits[0, : len(job.prompt) - len(job.writing.prompt_logprobs)])
                logits = logits[:, -1]
            if job.read == len(job.prompt):
                slot = len(self._rows)
                runner.cache.move(self.slots, slot, job.read)
                runner.steering.move(self.slots, slot)
                self._rows.append(job)
                self._long = None
                self._take(slot, logits)
                return

    def _write(self) -> None:
        """One token of every row."""
        if not self._rows:
            return
        logits = self._runner.read(
            0,
            [[job.writing.token_ids[-1]] for job in self._rows],
            [job.read for job in self._rows],
            [job.offset for job in self._rows],
            whole=False,
        )
        for job in self._rows:
            job.read += 1
        self._take(0, logits)

    def _take(self, first: int, logits: Tensor) -> None:
        """Draw the next token of the rows from `first` on; those that end with it leave."""
        jobs = self._rows[first:]
        drawn = choose([job.chooser for job in jobs], logits)
        for slot in reversed(range(first, first + len(jobs))):
            job, token = self._rows[slot], drawn[slot - first]
            try:
                if isinstance(token, Exception):
                    raise token
                job.writing.take(token, logits[slot - first])
                job.tell(token)
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
        last = len(self._rows) - 1
        self._runner.steering.leave(slot)
        if slot != last:
            self._runner.cache.move(last, slot, self._rows[last].read)
            self._runner.steering.move(last, slot)
            self._rows[slot] = self._rows[last]
        self._rows.pop()


def _told(error: Exception) -> Exception | None:
    """What the one whose prompt it was is told of a failure that is his alone; None for one that is everybody's."""
    if isinstance(error, TillerError):
        return error
    memory = isinstance(error, (OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)
    if not memory:
        return None
    return NotEnoughMemory("there was no memory left to read this prompt; shorten it, or try later", retry_after=5.0)


__all__ = ["Engine"]
