"""generate: a batch of prompts through the model, each row with its own plan, sampling and seed.

The plain loop, and the reference every faster engine is measured against: left-pad, read the prompts, then one token
per row and step until every row has ended. It owns the model while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steering.choosing import Chooser, choose
from steering.controllers.state_offset import held
from steering.hooks import steer
from steering.models import LanguageModel
from steering.requests import Completion, Request, encode
from steering.rows import PAD, RowSteering
from steering.stepping import Stepper, left_pad
from steering.writing import Writing


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
    rows = [Writing(lm, request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
    choosers = [Chooser(row.sampling, prompt) for row, prompt in zip(requests, prompts, strict=True)]
    for row in requests:
        row.sampling.check_vocabulary(lm.vocabulary)
        if row.plan is not None:
            row.plan.check_model(lm.model)
    steering = RowSteering(
        [row.plan for row in requests],
        hidden_size=lm.info.hidden_size,
        device=lm.device,
        dtype=lm.dtype,
        prompt_tokens=[len(prompt) for prompt in prompts],
    )
    if any(row.token_scores for row in requests):
        steering.keep_tokens()
    stepper = Stepper(lm.model)
    ids, mask = left_pad(prompts, pad_token_id=lm.tokenizer.pad_token_id, device=lm.device)
    with steer(lm.model, steering.controllers()):
        steering.begin(prompt_offsets(mask))
        logits = _read_prompts(stepper, rows, ids, mask)
        for step in range(max(row.sampling.max_tokens for row in requests)):
            steering.collect()
            fed = _next_tokens(rows, choosers, logits)
            alive = [row.finish_reason is None for row in rows]
            on_step(sum(alive))
            if not any(alive):
                break
            steering.begin(torch.tensor([[step if runs else PAD] for runs in alive]))
            with held(lm.model, stepper.cache, steering.state_edits()):
                logits = stepper.step(torch.tensor(fed, device=lm.device))
    return [
        row.complete(steering.report(at, finish=row.finish_reason or "length", tokens=requests[at].token_scores))
        for at, row in enumerate(rows)
    ]


def _read_prompts(stepper: Stepper, rows: Sequence[Writing], ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of the first new tokens, (batch, vocab); also tells rows that echo what was thought of their prompt."""
    if not any(row.request.echo for row in rows):
        return stepper.prefill(ids, mask)
    logits = stepper.prefill_whole(ids, mask)
    for row, own in zip(rows, logits, strict=True):
        if row.request.echo:
            row.read_prompt(own[-len(row.prompt) : -1])
    return logits[:, -1]


def _next_tokens(rows: Sequence[Writing], choosers: Sequence[Chooser], logits: Tensor) -> list[int]:
    """Draw for the rows that are still being written; what each row is fed next, 0 for those that have ended."""
    fed = [0] * len(rows)
    running = [at for at, row in enumerate(rows) if row.finish_reason is None]
    drawn = choose([choosers[at] for at in running], logits[running])
    for at, token in zip(running, drawn, strict=True):
        if isinstance(token, Exception):
            raise token
        rows[at].take(token, logits[at])
        fed[at] = token
    return fed


def prompt_offsets(mask: torch.Tensor) -> torch.Tensor:
    """Offsets of a left-padded prompt, (batch, seq) int64 on the host: ..., -2, -1, and PAD for padding."""
    length = mask.shape[1]
    return torch.where(mask.cpu().bool(), torch.arange(-length, 0), PAD)
