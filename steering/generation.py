"""generate: a batch of prompts through the model, each row with its own plan, sampling and seed.

The plain loop, and the reference every faster engine is measured against: left-pad, read the prompts, then one token
per row and step until every row has ended. It owns the model while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from steering.choosing import Chooser, choose
from steering.controllers.state_offset import held
from steering.errors import InvalidRequest, PromptTooLong
from steering.hooks import steer
from steering.models import LanguageModel
from steering.plan import Plan
from steering.report import SteeringReport
from steering.rows import PAD, RowSteering
from steering.sampling import Sampling
from steering.stepping import Stepper, left_pad


@dataclass(frozen=True, eq=False)
class Request:
    """One row of a batch."""

    prompt: str | tuple[int, ...]
    """Text, or token ids as they are."""
    sampling: Sampling = field(default_factory=Sampling)
    plan: Plan | None = None
    token_scores: bool = False
    """Report the probes' probabilities of every token."""

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a plan that could touch no token: the last new token is never read as input."""
        for constraint in self.plan.constraints if self.plan else ():
            if constraint.prompt == "none" and constraint.generation[0] >= self.sampling.max_tokens - 1:
                raise InvalidRequest(
                    f"{constraint.probe.id} would steer no token: no prompt token, and generated ones from "
                    f"{constraint.generation[0]} while only {self.sampling.max_tokens - 1} of max_tokens "
                    f"{self.sampling.max_tokens} are read again; lower its start, or steer the last prompt token",
                    param="generation",
                )


@dataclass(frozen=True)
class Completion:
    """What became of one row."""

    text: str
    """The continuation alone, cut before a stop string or a stop token."""
    token_ids: list[int]
    """All new tokens, the end-of-text or stop token included when it was drawn."""
    finish_reason: str
    """`stop` (end of text, a stop string or a stop token) or `length`."""
    prompt_tokens: int
    steering: SteeringReport | None
    """None when the row had no plan."""


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


@torch.inference_mode()
def generate(
    lm: LanguageModel, requests: Sequence[Request], *, on_step: Callable[[int], None] = lambda new: None
) -> list[Completion]:
    """Continue every request; the result is in the same order.

    `on_step` is called after each step with the number of rows still running. Raises InvalidRequest and its kin
    before anything is computed, and never returns unsteered text for a row that asked for steering.
    """
    if not requests:
        return []
    prompts = [encode(lm, row.prompt, max_tokens=row.sampling.max_tokens) for row in requests]
    rows = [_Row(lm, request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
    plans = [row.plan for row in requests]
    for request in requests:
        request.sampling.check_vocabulary(lm.vocabulary)
    for plan in plans:
        if plan is not None:
            plan.check_model(lm.model)
    steering = RowSteering(
        plans,
        hidden_size=lm.info.hidden_size,
        device=lm.device,
        dtype=lm.dtype,
        prompt_tokens=[len(prompt) for prompt in prompts],
    )
    if any(row.token_scores for row in requests):
        steering.keep_tokens()
    choosers = [Chooser(row.sampling, prompt) for row, prompt in zip(requests, prompts, strict=True)]
    stepper = Stepper(lm.model)
    ids, mask = left_pad(prompts, pad_token_id=lm.tokenizer.pad_token_id, device=lm.device)
    with steer(lm.model, steering.controllers()):
        steering.begin(prompt_offsets(mask))
        logits = stepper.prefill(ids, mask)
        for step in range(max(row.sampling.max_tokens for row in requests)):
            steering.collect()
            tokens = [_chosen(token) for token in choose(choosers, logits)]
            for row, token in zip(rows, tokens, strict=True):
                row.take(token)
            running = [row.finish_reason is None for row in rows]
            on_step(sum(running))
            if not any(running):
                break
            steering.begin(torch.tensor([[step if alive else PAD] for alive in running]))
            with held(lm.model, stepper.cache, steering.state_edits()):
                logits = stepper.step(torch.tensor(tokens, device=logits.device))
    return [row.complete(steering.report(at, finish=row.reason, tokens=row.scores)) for at, row in enumerate(rows)]


def _chosen(token: int | InvalidRequest) -> int:
    if isinstance(token, InvalidRequest):
        raise token
    return token


def prompt_offsets(mask: torch.Tensor) -> torch.Tensor:
    """Offsets of a left-padded prompt, (batch, seq) int64 on the host: ..., -2, -1, and PAD for padding."""
    length = mask.shape[1]
    return torch.where(mask.cpu().bool(), torch.arange(-length, 0), PAD)


def end_tokens(lm: LanguageModel) -> frozenset[int]:
    """Every token id that ends a text, from the generation config and the tokenizer."""
    listed = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(token for token in [*ids, lm.tokenizer.eos_token_id] if token is not None)


class _Row:
    """A row while it is being written."""

    def __init__(self, lm: LanguageModel, request: Request, prompt: list[int]) -> None:
        self._tokenizer = lm.tokenizer
        self._sampling = request.sampling
        self._prompt = prompt
        self._before = lm.tokenizer.decode(prompt, skip_special_tokens=True)
        self._ends = frozenset() if request.sampling.ignore_eos else end_tokens(lm)
        self._new: list[int] = []
        self._text: str | None = None
        self.finish_reason: str | None = None
        self.scores = request.token_scores

    @property
    def reason(self) -> str:
        return self.finish_reason or "length"

    def take(self, token: int) -> None:
        """Append one token, unless the row has ended."""
        if self.finish_reason is not None:
            return
        if token in self._sampling.stop_ids:
            self._text = self._decode()
        self._new.append(token)
        if token in self._ends or self._text is not None:
            self.finish_reason = "stop"
            return
        if self._sampling.stop:
            text = self._decode()
            found = [at for at in (text.find(stop) for stop in self._sampling.stop) if at >= 0]
            if found:
                self._text, self.finish_reason = text[: min(found)], "stop"
                return
        if len(self._new) >= self._sampling.max_tokens:
            self.finish_reason = "length"

    def complete(self, report: SteeringReport | None) -> Completion:
        text = self._decode() if self._text is None else self._text
        return Completion(text, self._new, self.reason, len(self._prompt), report)

    def _decode(self) -> str:
        """The new text. Decoded behind the prompt, since some tokenizers drop a leading space."""
        whole = self._tokenizer.decode([*self._prompt, *self._new], skip_special_tokens=True)
        if whole.startswith(self._before):
            return str(whole[len(self._before) :])
        return str(self._tokenizer.decode(self._new, skip_special_tokens=True))
