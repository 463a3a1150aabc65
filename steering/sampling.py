"""Choosing the next token of each row, from float32 logits.

A row's draw depends on its own logits, settings and seed only: one uniform number per token from the row's own
generator, turned into a token by the inverse of its cumulative distribution. So the same request with the same seed
gives the same tokens whatever else shares the batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import InvalidRequest


@dataclass(frozen=True)
class Sampling:
    """How one request is decoded. Raises InvalidRequest, naming the field, for values outside their range."""

    max_tokens: int = 64
    """New tokens at most; at least 1."""
    temperature: float = 1.0
    """0 is greedy; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this, in (0, 1]."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 keeps all."""
    seed: int = 0
    """Of this row's generator."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    ignore_eos: bool = False
    """Go on after end-of-text, for measurements that need a fixed length."""

    def __post_init__(self) -> None:
        def refuse(param: str, expected: str) -> None:
            raise InvalidRequest(f"{param} is {json.dumps(getattr(self, param))}; expected {expected}", param=param)

        if self.max_tokens < 1:
            refuse("max_tokens", "a whole number of at least 1")
        if not 0.0 <= self.temperature < math.inf:
            refuse("temperature", "a finite number of at least 0 (0 is greedy)")
        if not 0.0 < self.top_p <= 1.0:
            refuse("top_p", "a number above 0 and at most 1 (1 keeps every token)")
        if self.top_k < 0:
            refuse("top_k", "a whole number of at least 0 (0 keeps every token)")
        if not 0 <= self.seed < 2**63:
            refuse("seed", "a whole number from 0 to 2^63 - 1")
        if any(not text for text in self.stop):
            refuse("stop", "strings that are not empty")


class Sampler:
    """The settings of one batch as tensors, and one generator per row."""

    def __init__(self, settings: Sequence[Sampling]) -> None:
        self._generators = [torch.Generator().manual_seed(row.seed) for row in settings]
        self._greedy = torch.tensor([row.temperature == 0 for row in settings])
        self._temperature = torch.tensor([row.temperature or 1.0 for row in settings], dtype=torch.float64).unsqueeze(
            -1
        )
        self._top_p = torch.tensor([row.top_p for row in settings], dtype=torch.float64).unsqueeze(-1)
        self._top_k = torch.tensor([row.top_k or 2**31 for row in settings]).unsqueeze(-1)

    def __call__(self, logits: Tensor) -> Tensor:
        """Next tokens, (batch,) int64 on the device of `logits` (batch, vocab).

        Raises InvalidRequest when a row's logits hold NaN: the model itself overflowed.
        """
        scores = logits.cpu()
        if bool(torch.isnan(scores).any()):
            raise InvalidRequest("the model produced NaN logits; try another dtype (--dtype float32) or a looser bound")
        best = scores.argmax(dim=-1)
        if bool(self._greedy.all()):
            return best.to(logits.device)
        # From the likeliest down and in float64, so that no temperature above 0 overflows.
        fall = scores.double() - scores.amax(dim=-1, keepdim=True)
        probability = (fall / self._temperature).softmax(dim=-1)
        ordered, order = probability.sort(dim=-1, descending=True, stable=True)
        # A token stays if the mass before it has not yet reached top_p; the likeliest always stays.
        rank = torch.arange(scores.shape[-1])
        keep = (ordered.cumsum(dim=-1) - ordered < self._top_p) & (rank < self._top_k)
        kept = torch.zeros_like(probability).scatter(-1, order, ordered * keep)
        # Drawn in the order of the vocabulary: two near-ties that change places by rounding do not change the draw.
        mass = kept.cumsum(dim=-1)
        draws = torch.stack([torch.rand((), generator=rng, dtype=torch.float64) for rng in self._generators])
        sampled = torch.searchsorted(mass, (draws * mass[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
        last = (kept > 0).long().mul(rank).amax(dim=-1)  # rounding must not carry the draw past the last kept token
        sampled = torch.minimum(sampled, last)
        return torch.where(self._greedy, best, sampled).to(logits.device)
