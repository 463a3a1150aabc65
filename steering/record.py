"""What is remembered of each token in one forward pass, until it is added to the totals.

A record is a float64 tensor (rows, seq, slots, FIELDS): per token and constraint of its row, over all layers. The first
`MAXIMA` fields are folded by the maximum, `pairs` and `dose` by the sum; the rest are flags, 1 when something happened
at any layer, so that a token counts once however many layers touched it. Probabilities are kept as calibrated logits,
`scale * logit + shift`, whose order is the same in every layer; the sigmoid is taken when the report is written.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_PRE, MAX_POST, NEG_MIN_PRE, NEG_MIN_POST, MAX_DOSE = range(5)
PAIRS, DOSE = 5, 6
TOKENS, EDITED, CAPPED, INFEASIBLE, VIOLATIONS = range(7, 12)
MAXIMA, FIELDS = 5, 12

BLANK = (-math.inf,) * MAXIMA + (0.0,) * (FIELDS - MAXIMA)


def blank(*shape: int, device: torch.device) -> Tensor:
    """(*shape, FIELDS): nothing has happened yet."""
    return torch.tensor(BLANK, dtype=torch.float64, device=device).repeat(*shape, 1)


def merge(record: Tensor, other: Tensor) -> Tensor:
    """Two records of the same tokens as one."""
    summed = slice(PAIRS, DOSE + 1)
    both = torch.maximum(record, other)
    both[..., summed] = record[..., summed] + other[..., summed]
    return both
