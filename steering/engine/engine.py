"""The one owner of the model: a thread that reads prompts, writes tokens, and lets rows join and leave in between.

A turn of the engine is one pass over prompts, if any wait, then one decoding step of every row that writes. So nobody
waits for the slowest of a batch, and a long prompt, read in chunks, delays others' next token by one chunk at most.
Each row has its own plan, sampling, seed and account, and no row can feel another (`steering.engine.batch`).

What fails in a row ends that row; a failure of a pass ends the engine, and everybody is told. Nothing of a prompt is
kept for the next request that begins alike: a prefix read under one plan would be a wrong answer under another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from steering.engine.aside import Answer, Aside, Work
from steering.engine.batch import Batch
from steering.engine.job import Job, Listener, Priority
from steering.engine.observer import Observer
from steering.engine.packed import packs_by_itself
from steering.engine.runner import Runner
from steering.engine.waiting import Room, Waiting
from steering.errors import EngineUnavailable, InvalidRequest, PromptTooLong
from steering.models import LanguageModel
from steering.requests import Completion, Request, encode
from steering.selftest import SelfTest, self_test

ROW_TOKENS = 2048
"""Of one row, prompt and continuation, where the model's context is longer or unbounded."""
_IDLE, _RUSH = 8, 4
"""Chunks of short prompts that may be read at once while nobody writes, and while as many could join as write."""
_ASIDE = 16
"""Works beside the rows that may wait."""
_GATHER = 0.002
"""Seconds without a new request after which an idle engine begins with those that came together."""


class Engine:
    """Runs requests on one model. Starts after the self-test; use as a context manager or call `close`.

    `slots` rows are written together. A row holds at most `row_tokens` tokens, and all of them together `cache_tokens`
    (by default, as many as there is room for). Prompts are read `chunk_tokens` at a time. `max_queue` requests may
    wait. `pack` keeps the weights twice for faster steps on a CPU (`steering.engine.packed`); by default, where they
    are few. `compile` prepares a compiled step for times when at least half of the slots write
    (`steering.engine.compiled`): a minute or two at start-up, and the weights once more in memory.

    Raises SelfTestFailed when the model cannot be steered, UnsupportedModel for caches or attention it does not know,
    ModelError when the step cannot be compiled, InvalidRequest for a size below 1.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        slots: int = 16,
        row_tokens: int | None = None,
        cache_tokens: int | None = None,
        chunk_tokens: int = 128,
        max_queue: int = 256,
        pack: bool | None = None,
        compile: bool = False,  # noqa: A002
    ) -> None:
        sizes = {"slots": slots, "row_tokens": row_tokens, "cache_tokens": cache_tokens, "chunk_tokens": chunk_tokens}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise InvalidRequest(f"{name} is {size}; expected a whole number of at least 1", param=name)
        self.lm = lm
        self.slots = slots
        self.row_tokens = min(row_tokens or ROW_TOKENS, lm.context or row_tokens or ROW_TOKENS)
        self.cache_tokens = cache_tokens or slots * self.row_tokens
        self.chunk_tokens = min(chunk_tokens, self.row_tokens)
        self.self_test: SelfTest = self_test(lm)
        self._waiting = Waiting(max_queue)
        self._aside = Aside(_ASIDE)
        self._short_turn = True
        """Whether the next pass over prompts is for short ones, though a long one is being read"""
        self._closing, self._stopping = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._runner = Runner(
            lm,
            slots=slots + 1,
            row_tokens=self.row_tokens,
            pack=packs_by_itself(lm.model, copies=2 if compile else 1) if pack is None else pack,
            compiled_rows=slots if compile else None,
        )
        self._batch = Batch(self._runner, slots=slots, chunk_tokens=self.chunk_tokens)
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
        return self._batch.running

    @property
    def cache_bytes(self) -> int:
        """What the cache takes, once and for all."""
        return self._runner.cache.bytes

    @property
    def tokens(self) -> int:
        """What the running rows hold at most, together; the budget is `cache_tokens`."""
        return self._batch.tokens

    def observe(self, observer: Observer) -> None:
        """Tell `observer` what happens, to the requests submitted from now on."""
        self._batch.observer = observer

    def check(self, request: Request) -> int:
        """Raise what `submit` would raise for this request, and return the number of its prompt tokens."""
        return len(self._checked(request))

    def check_room(self, rows: int) -> None:
        """Raise EngineUnavailable when so many more could not wait at this moment."""
        self._waiting.check_room(rows)

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
        prompt, observer = self._checked(request), self._batch.observer
        job = Job.of(self.lm, request, prompt, priority=priority, listener=listener, observer=observer)
        if seconds is not None:
            job.deadline = job.began + seconds
        if not self.alive or not self._waiting.push(job):
            raise self._ended()
        return job.answer

    def submit_all(self, requests: Sequence[Request], *, priority: Priority = "background") -> list[Future[Completion]]:
        """Queue requests together, when each has been checked; none is queued where one is refused.

        With nobody else at the engine, which rows are written beside which then follows from the requests alone and
        not from how fast they came: the same requests give the same numbers, to the last bit. Raises as `submit`;
        EngineUnavailable for more of them than `max_queue`.
        """
        jobs = [
            Job.of(self.lm, request, self._checked(request), priority=priority, listener=None) for request in requests
        ]
        if not self.alive or not self._waiting.push(*jobs):
            raise self._ended()
        return [job.answer for job in jobs]

    def beside(self, work: Work[Answer], *, seconds: float | None = None) -> Future[Answer]:
        """Have `work` done step by step by the owner of the model, between two turns, so that it touches no row.

        Its future can be cancelled between two steps; after `seconds` its answer is DeadlineExceeded. Raises
        EngineUnavailable when too many wait or the engine has ended.
        """
        answer = self._aside.push(work, seconds=seconds) if self.alive else None
        if answer is None:
            raise self._ended()
        self._waiting.wake()
        return answer

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
            for job in [*self._batch.everybody, *self._waiting.drain()]:
                job.fail(EngineUnavailable(told))
            for answer in self._aside.drain():
                answer.set_exception(EngineUnavailable(told))

    def _turn(self) -> bool:
        """Read some of the prompts that wait, then write a token in every row; False when all is done.

        Before that, one step of what is to be done beside the rows.
        """
        if self._stopping.is_set():
            return False
        self._aside.step()
        if not self.running and not len(self._waiting) and not len(self._aside):
            if self._closing.is_set():
                return False
            self._waiting.wait()
            self._gather()
            return True
        self._waiting.sweep()
        self._batch.drop_those_over()
        self._read_prompts()
        self._batch.write()
        return True

    def _gather(self) -> None:
        """Let requests that come together come in, for some milliseconds at most."""
        come = -1
        for _ in range(8):
            if come == (come := len(self._waiting)):
                return
            time.sleep(_GATHER)

    def _read_prompts(self) -> None:
        """One pass: over short prompts, or over a chunk of the long one; in turns when both wait."""
        batch = self._batch
        if batch.long is not None and not self._short_turn:
            self._short_turn = True
            batch.read_long()
            return
        free = self.slots - batch.running
        rush = min(free, len(self._waiting)) >= batch.running
        room = Room(
            slots=free,
            tokens=self.cache_tokens - batch.tokens,
            area=self.chunk_tokens * (_IDLE if not batch.running else _RUSH if rush else 1),
            chunk=self.chunk_tokens,
            long=batch.long is None,
        )
        short, long = self._waiting.admit(room)
        for job in short if long is None else [*short, long]:
            job.admit()
        if long is not None:
            batch.begin_long(long)
        self._short_turn = False
        if short:
            batch.read_short(short)
        elif batch.long is not None:
            batch.read_long()
