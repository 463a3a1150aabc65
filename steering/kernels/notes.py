"""Writing one token's line of a record (`steering.record`) from compiled code."""

from __future__ import annotations

from steering import record as field
from steering.kernels.compiling import compiled


@compiled
def note(line, before, after, dose, edited, capped, gave, violated):
    """Add what one layer did to one token under one constraint; `before` and `after` are calibrated logits."""
    line[field.MAX_PRE] = max(line[field.MAX_PRE], before)
    line[field.MAX_POST] = max(line[field.MAX_POST], after)
    line[field.NEG_MIN_PRE] = max(line[field.NEG_MIN_PRE], -before)
    line[field.NEG_MIN_POST] = max(line[field.NEG_MIN_POST], -after)
    line[field.MAX_DOSE] = max(line[field.MAX_DOSE], dose)
    line[field.TOKENS] = 1.0
    if edited:
        line[field.PAIRS] += 1.0
        line[field.DOSE] += dose
        line[field.EDITED] = 1.0
    if capped:
        line[field.CAPPED] = 1.0
    if gave:
        line[field.INFEASIBLE] = 1.0
    if violated:
        line[field.VIOLATIONS] = 1.0
