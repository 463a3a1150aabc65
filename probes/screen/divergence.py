"""What steering costs on text that gives no reason to steer: the divergence of the next-token distribution.

    KL(unsteered || steered) = sum_v p(v) (log p(v) - log q(v)),  in nats

The model reads a neutral text as it stands (teacher forcing); its first tokens pass as a prompt, the rest as written by
the model, so that exactly the tokens are steered that would be in practice. The divergence is the mean over the
predictions that follow a steered token.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from probes.screen.question import Arm, Question
from steering.hooks import steer
from steering.rows import RowSteering
from steering.stepping import prefill_inputs


class Divergence:
    """Holds the unsteered log-probabilities of the neutral texts: (texts, new_tokens, vocab) float32 in memory."""

    @torch.inference_mode()
    def __init__(self, question: Question) -> None:
        self._question = question
        self._ids = torch.tensor(question.neutral, dtype=torch.long)
        size = max(1, question.batch // 4)
        self._chunks = [range(at, min(at + size, len(self._ids))) for at in range(0, len(self._ids), size)]
        keep = "logits_to_keep" in inspect.signature(question.lm.model.forward).parameters
        self._extra = {"logits_to_keep": question.new_tokens} if keep else {}
        self._unsteered = [self._log_probabilities(rows, Arm("unsteered")) for rows in self._chunks]

    @torch.inference_mode()
    def of(self, arm: Arm) -> list[float]:
        """Mean KL of each neutral text under `arm`."""
        found: list[float] = []
        for rows, plain in zip(self._chunks, self._unsteered, strict=True):
            gap = plain - self._log_probabilities(rows, arm)
            per_token = gap.mul_(plain.exp()).sum(dim=-1, dtype=torch.float64).clamp_min(0.0)
            found += per_token.mean(dim=-1).tolist()
        return found

    def _log_probabilities(self, rows: range, arm: Arm) -> Tensor:
        """(rows, new_tokens, vocab) float32."""
        question = self._question
        lm = question.lm
        ids = self._ids[list(rows)]
        steering = RowSteering(
            [question.plan(arm, row) for row in rows],
            hidden_size=lm.info.hidden_size,
            device=lm.device,
            dtype=lm.dtype,
        )
        length = ids.shape[1]
        first = question.new_tokens - 1 - length  # the offset of the last token read is new_tokens - 2
        steering.begin(torch.arange(first, first + length).expand(len(ids), length))
        inputs = prefill_inputs(lm.model, ids.to(lm.device), torch.ones_like(ids).to(lm.device))
        with steer(lm.model, steering.controllers()):
            logits = lm.model(**inputs, use_cache=False, **self._extra).logits
            steering.collect()
        found: Tensor = logits[:, -question.new_tokens :].float().log_softmax(dim=-1)
        return found
