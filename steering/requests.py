"""One request and its answer: what goes into `generate` or an engine, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steering.errors import InvalidRequest, PromptTooLong
from steering.models import LanguageModel
from steering.plan import Plan
from steering.report import SteeringReport
from steering.sampling import Sampling

MAX_LOGPROBS = 20
"""Alternatives a request may ask for at every token."""


@dataclass(frozen=True, eq=False)
class Request:
    """One row of a batch. Raises InvalidRequest for what no model could answer."""

    prompt: str | tuple[int, ...]
    """Text, or token ids as they are."""
    sampling: Sampling = field(default_factory=Sampling)
    plan: Plan | None = None
    token_scores: bool = False
    """Report the probes' probabilities of every token."""
    logprobs: int | None = None
    """Report the log-probability of every new token, beside this many likeliest ones; None reports nothing."""
    echo: bool = False
    """Report the log-probabilities of the prompt's tokens too; needs `logprobs`."""

    def __post_init__(self) -> None:
        """Also refused: a plan that could touch no token, since the last new token is never read as input."""
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"logprobs is {self.logprobs}; expected a whole number from 0 to {MAX_LOGPROBS}", param="logprobs"
            )
        if self.echo and self.logprobs is None:
            raise InvalidRequest(
                "echo reports log-probabilities, and logprobs was not asked for; give logprobs: 0 or more",
                param="echo",
            )
        for constraint in self.plan.constraints if self.plan else ():
            if constraint.prompt == "none" and constraint.generation[0] >= self.sampling.max_tokens - 1:
                raise InvalidRequest(
                    f"{constraint.probe.id} would steer no token: no prompt token, and generated ones from "
                    f"{constraint.generation[0]} while only {self.sampling.max_tokens - 1} of max_tokens "
                    f"{self.sampling.max_tokens} are read again; lower its start, or steer the last prompt token",
                    param="generation",
                )


@dataclass(frozen=True)
class TokenLogprob:
    """How likely the model, as it was steered, found a token: natural logarithms, before temperature and penalties."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens with theirs, falling; as many as were asked for."""


@dataclass(frozen=True)
class Timing:
    """Where a row's time went, in seconds of the monotonic clock."""

    queued: float
    """From its submission until its prompt began to be read."""
    prefill: float
    """From then until its first token."""
    decode: float
    """From then until its last."""

    @property
    def total(self) -> float:
        """From its submission until its end."""
        return self.queued + self.prefill + self.decode


@dataclass(frozen=True)
class Completion:
    """What became of one row."""

    text: str
    """The continuation alone, cut before a stop string."""
    token_ids: list[int]
    """All new tokens, the end-of-text token included when it was drawn."""
    finish_reason: str
    """`stop` (end of text or a stop string) or `length`."""
    prompt_tokens: int
    steering: SteeringReport | None
    """None when the row had no plan."""
    logprobs: list[TokenLogprob] | None = None
    """Of the new tokens, when they were asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Of the prompt's tokens, with `echo`; nothing came before the first, so it has none."""
    timing: Timing | None = field(default=None, compare=False)
    """From an engine; None from `generate`, which has no queue."""


def encode(lm: LanguageModel, prompt: str | Sequence[int], *, max_tokens: int) -> list[int]:
    """Token ids of a prompt that fits. Raises InvalidRequest for one that is empty, PromptTooLong with the numbers."""
    if isinstance(prompt, str):
        if not prompt.strip():
            found = "only white space" if prompt else "empty"
            raise InvalidRequest(f"the prompt is {found}; give the text that should be continued", param="prompt")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"the prompt holds a lone surrogate at character {error.start}, which is no Unicode text; "
                "send valid UTF-8",
                param="prompt",
            ) from None
        ids = list(lm.tokenizer(prompt)["input_ids"])
    else:
        ids = list(prompt)
        size = lm.model.get_input_embeddings().num_embeddings
        strangers = [token for token in ids if not 0 <= token < size]
        if not ids or strangers:
            found = f"token id {strangers[0]}" if strangers else "no token ids"
            raise InvalidRequest(f"the prompt holds {found}; expected ids from 0 to {size - 1}", param="prompt")
    if lm.context is not None and len(ids) + max_tokens > lm.context:
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens and {max_tokens} more are asked for, but the context of {lm.name} is "
            f"{lm.context}; shorten the prompt or lower max_tokens",
            param="prompt",
        )
    return ids


def token_logprobs(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenLogprob]:
    """What was thought of `tokens` (n,) where they were drawn or read, from float32 `logits` (n, vocab).

    log p = logit - log sum exp logits, in float32; `top` likeliest tokens are told beside each.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1).tolist()
    best, ids = logprobs.topk(top, dim=-1) if top else (logprobs[:, :0], logprobs[:, :0])
    return [
        TokenLogprob(token, logprob, tuple(zip(map(int, which), much, strict=True)))
        for token, logprob, which, much in zip(tokens, own, ids.tolist(), best.tolist(), strict=True)
    ]
