"""The one owner of the model: a thread that takes waiting requests in order and runs them as one batch.

Hooks are shared state of the model, so nobody else may run it while the engine lives. Each row of a batch carries its
own plan, sampling and seed, and no row can change another's answer; a row that fails is run again alone, so its error
ends that row only. Requests that come while a batch runs wait for the next one.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from steering.errors import EngineUnavailable
from steering.generation import Completion, Request, encode, generate
from steering.models import LanguageModel
from steering.selftest import SelfTest, self_test


@dataclass(frozen=True, eq=False)
class _Job:
    request: Request
    answer: Future[Completion]


class Engine:
    """Runs requests on one model. Starts after the self-test; use as a context manager or call `close`.

    `max_batch` rows run together; `max_queue` may wait. Raises SelfTestFailed when the model cannot be steered.
    """

    def __init__(self, lm: LanguageModel, *, max_batch: int = 16, max_queue: int = 256) -> None:
        self.lm = lm
        self.self_test: SelfTest = self_test(lm)
        self._max_batch = max_batch
        self._jobs: queue.Queue[_Job | None] = queue.Queue(maxsize=max_queue)
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._stopping = threading.Event()
        self._last = False  # read and written by the thread alone
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tiller-engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> BaseException | None:
        """What ended the engine's thread, if anything did."""
        return self._failure

    @property
    def alive(self) -> bool:
        """Whether requests are still being answered."""
        return self._thread.is_alive() and not self._closing.is_set()

    @property
    def waiting(self) -> int:
        """Requests in the queue, about."""
        return self._jobs.qsize()

    def check(self, request: Request) -> int:
        """Raise what `submit` would raise for this request, and return the number of its prompt tokens."""
        tokens = len(encode(self.lm, request.prompt, max_tokens=request.sampling.max_tokens))
        if request.plan is not None:
            request.plan.check_representable(self.lm.dtype)
            request.plan.check_model(self.lm.model)
        return tokens

    def submit(self, request: Request) -> Future[Completion]:
        """Queue a request that has been checked first; the future can be cancelled until its batch starts.

        Raises InvalidRequest and its kin at once, EngineUnavailable when the queue is full or the engine has ended.
        """
        self.check(request)
        if not self.alive:
            reason = f"it failed ({type(self._failure).__name__})" if self._failure else "it is shutting down"
            raise EngineUnavailable(f"the engine takes no requests: {reason}; restart the server or ask another")
        answer: Future[Completion] = Future()
        try:
            self._jobs.put_nowait(_Job(request, answer))
        except queue.Full:
            raise EngineUnavailable(
                f"{self._jobs.maxsize} requests are waiting already; try again later", retry_after=1.0
            ) from None
        if self._ended.is_set():  # between the look at `alive` and the put: nobody else would find it
            self._refuse_waiting()
        return answer

    def stop(self) -> None:
        """End within a step: what runs or waits gets EngineUnavailable. For a drain that has taken too long."""
        self._closing.set()
        self._stopping.set()
        with contextlib.suppress(queue.Full):  # full: the thread is not waiting for a job
            self._jobs.put_nowait(None)

    def close(self) -> None:
        """Answer what is queued, then end the thread. Safe to call twice."""
        if not self._closing.is_set():
            self._closing.set()
            self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        running: list[_Job] = []
        try:
            while (batch := self._next_batch()) is not None:
                running = [job for job in batch if job.answer.set_running_or_notify_cancel()]
                self._answer(running)
        except BaseException as failure:
            self._failure = failure
            for job in running:
                if not job.answer.done():
                    job.answer.set_exception(EngineUnavailable("the engine failed while it ran this request"))
        finally:
            self._closing.set()
            self._ended.set()
            self._refuse_waiting()

    def _next_batch(self) -> list[_Job] | None:
        """Wait for one job, then take those that wait already; None when the engine closes."""
        if self._last or self._stopping.is_set() or (first := self._jobs.get()) is None:
            return None
        batch = [first]
        while len(batch) < self._max_batch:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._last = True  # putting it back could wait for room that nobody makes
                break
            batch.append(job)
        return batch

    def _answer(self, jobs: Sequence[_Job]) -> None:
        try:
            completions = generate(self.lm, [job.request for job in jobs], on_step=self._check_stop)
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, EngineUnavailable):
                for job in jobs:
                    job.answer.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job, completion in zip(jobs, completions, strict=True):
            job.answer.set_result(completion)

    def _check_stop(self, running: int) -> None:
        if self._stopping.is_set():
            raise EngineUnavailable("the engine was stopped before this answer was ready; ask another server")

    def _refuse_waiting(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None and job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(EngineUnavailable("the engine ended before this request was reached"))
