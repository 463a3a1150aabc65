"""Continuations of the same prompts under one arm after another.

The prompts are read once, up to their last token, which is the first a plan may touch; each arm goes on from a copy of
that cache. Every row draws with its own fixed noise, so that the texts of two arms part only where the steering made
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probes.screen.nucleus import draw
from probes.screen.question import TOP_P, Arm, Question
from steering.hooks import steer
from steering.rows import PAD, RowSteering
from steering.stepping import Stepper, left_pad
from steering.writing import end_tokens


@dataclass(frozen=True, eq=False)
class _Begun:
    """Some prompts, read but for their last token."""

    rows: tuple[int, ...]
    stepper: Stepper
    last: Tensor
    """(rows,) int64"""


class Writer:
    """Holds the caches of all prompts of `question`: (prompt tokens x layers) of keys and values in memory."""

    @torch.inference_mode()
    def __init__(self, question: Question) -> None:
        self._question = question
        self._ends = end_tokens(question.lm)
        order = sorted(range(len(question.prompts)), key=lambda row: (len(question.prompts[row]), row))
        groups = [tuple(order[at : at + question.batch]) for at in range(0, len(order), question.batch)]
        self._begun = [self._read(rows) for rows in groups]

    @torch.inference_mode()
    def write(self, arm: Arm) -> list[str]:
        """The continuation of every prompt, in the order of the prompts."""
        texts = [""] * len(self._question.prompts)
        for begun in self._begun:
            for row, new in zip(begun.rows, self._continue(begun, arm), strict=True):
                texts[row] = str(self._question.lm.tokenizer.decode(new, skip_special_tokens=True))
        return texts

    def _read(self, rows: tuple[int, ...]) -> _Begun:
        lm = self._question.lm
        prompts = [self._question.prompts[row] for row in rows]
        ids, mask = left_pad(prompts, pad_token_id=lm.tokenizer.pad_token_id, device=lm.device)
        stepper = Stepper(lm.model)
        stepper.prefill(ids[:, :-1], mask[:, :-1])
        return _Begun(rows, stepper, ids[:, -1])

    def _continue(self, begun: _Begun, arm: Arm) -> list[list[int]]:
        question, rows = self._question, begun.rows
        lm = question.lm
        steering = RowSteering(
            [question.plan(arm, row) for row in rows],
            hidden_size=lm.info.hidden_size,
            device=lm.device,
            dtype=lm.dtype,
        )
        new: list[list[int]] = [[] for _ in rows]
        running = [True] * len(rows)
        stepper, tokens = begun.stepper.fork(), begun.last
        with steer(lm.model, steering.controllers()):
            for step in range(question.new_tokens):
                steering.begin(torch.tensor([[step - 1 if alive else PAD] for alive in running]))
                logits = stepper.step(tokens)
                steering.collect()
                drawn = draw(logits, rows=rows, step=step, seed=question.seed, top_p=TOP_P)
                for at, token in enumerate(drawn.tolist()):
                    running[at] = running[at] and token not in self._ends
                    if running[at]:
                        new[at].append(token)
                if not any(running):
                    break
                tokens = drawn.to(lm.device)
        return new
