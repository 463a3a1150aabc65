"""One request on its way through an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steering.choosing import Chooser
from steering.engine.observer import Observer
from steering.engine.steered import Steered
from steering.errors import DeadlineExceeded
from steering.models import LanguageModel
from steering.requests import Completion, Request, Timing, TokenLogprob
from steering.writing import Writing

Priority = Literal["live", "background"]
"""`background` is taken only when nothing `live` waits: for evaluation beside traffic."""


@dataclass(frozen=True)
class News:
    """One new token of a row, as its listener is told."""

    token_id: int
    text: str
    """What has become certain of the text; may be empty, and belong to earlier tokens"""
    logprob: TokenLogprob | None
    finish_reason: str | None
    """Of the last token only"""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Of the first token only, and with `echo`: those of the prompt"""
    scores: Sequence[dict[str, Any]] = ()
    """With `token_scores`: of the tokens read since the last news, as in the report; the last of them wrote this one"""


Listener = Callable[[News], None]
"""Called in the engine's thread, so it must return at once; what it raises ends its row."""


@dataclass(eq=False)
class Job:
    """A request with all that was made from it when it was submitted."""

    request: Request
    prompt: list[int]
    steered: Steered
    writing: Writing
    chooser: Chooser
    priority: Priority = "live"
    deadline: float | None = None
    """When it is too late, on the monotonic clock"""
    listener: Listener | None = None
    observer: Observer = field(default_factory=Observer)
    answer: Future[Completion] = field(default_factory=Future)
    """Never marked as running, so that it can be cancelled between any two steps"""
    read: int = 0
    """Tokens of the row that are in the cache"""
    began: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    """When it left the queue"""
    first: float | None = None
    """When it had its first token"""
    last: float | None = None
    """And its latest"""
    ended: bool = False
    """Whether it was answered, or its cancellation noted"""

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        request: Request,
        prompt: list[int],
        *,
        priority: Priority,
        listener: Listener | None,
        observer: Observer | None = None,
    ) -> Job:
        """Prepare a request, as far as that needs no neighbours."""
        steered = Steered.of(request.plan, lm, prompt_tokens=len(prompt), token_scores=request.token_scores)
        writing, chooser = Writing(lm, request, prompt), Chooser(request.sampling, prompt)
        observer = observer or Observer()
        return cls(request, prompt, steered, writing, chooser, priority=priority, listener=listener, observer=observer)

    @property
    def tokens(self) -> int:
        """Tokens it will hold at most, prompt and continuation."""
        return len(self.prompt) + self.request.sampling.max_tokens

    @property
    def offset(self) -> int:
        """Of the generated token that is read next: 0 for the first."""
        return len(self.writing.token_ids) - 1

    def is_over(self) -> bool:
        """Whether nobody waits any longer. A job whose deadline has passed is told so."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.fail(
                DeadlineExceeded(
                    f"the answer was not ready within the {self.deadline - self.began:g} seconds this request has; "
                    "ask for fewer tokens, or give it more time"
                )
            )
        if self.answer.cancelled():
            self._may_answer()
        return self.ended

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended."""
        if self._may_answer():
            self.observer.failed(error)
            self.answer.set_exception(error)

    def admit(self) -> None:
        """Note that it has left the queue."""
        self.admitted = time.monotonic()
        self.observer.admitted(prompt_tokens=len(self.prompt), waited=self.admitted - self.began)

    def tick(self) -> None:
        """Note that it has its next token."""
        now = time.monotonic()
        if self.last is None:
            self.first = now
            self.observer.first_token(now - self.began)
        else:
            self.observer.next_token(now - self.last)
        self.last = now

    def tell(self, token: int, scores: Callable[[], Sequence[dict[str, Any]]]) -> None:
        """Tell the listener, if there is one, of the token just taken; `scores` is asked only if he wants them."""
        if self.listener is None:
            return
        writing = self.writing
        logprob = writing.logprobs[-1] if writing.logprobs else None
        first = len(writing.token_ids) == 1
        self.listener(
            News(
                token,
                writing.news(),
                logprob,
                writing.finish_reason,
                prompt_logprobs=writing.prompt_logprobs if first and self.request.echo else None,
                scores=scores() if self.request.token_scores else (),
            )
        )

    def finish(self, completion: Completion) -> None:
        """Answer, unless it was cancelled meanwhile."""
        if self._may_answer():
            completion = replace(completion, timing=self._timing())
            self.observer.finished(completion)
            self.answer.set_result(completion)

    def _may_answer(self) -> bool:
        """True once, unless it was cancelled, of which `concurrent.futures.wait` is told here; then it cannot be."""
        if self.ended:
            return False
        self.ended = True
        if self.answer.set_running_or_notify_cancel():
            return True
        self.observer.cancelled()
        return False

    def _timing(self) -> Timing:
        assert self.admitted is not None
        assert self.first is not None
        assert self.last is not None
        return Timing(self.admitted - self.began, self.first - self.admitted, self.last - self.first)
