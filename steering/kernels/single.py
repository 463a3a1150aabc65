"""One slab per row, in one pass over the tokens of a layer; see `steering.slab` for the rule and its candidates."""

from __future__ import annotations

import math

import numpy as np

from steering.kernels.compiling import compiled
from steering.kernels.notes import note
from steering.slab import GROWTH

BIAS, LOW, HIGH, STRENGTH, MAX_DOSE, REACH, LENGTH, SCALE, SHIFT, PROMISED, GAVE, SLOT, ACTIVE = range(13)
WEIGHT, LIFT, PER_LOGIT = range(13, 16)
"""Columns of `figures`, one row each of the batch. REACH = |bias| + |low| + |high|; LENGTH = ||direction||; WEIGHT and
LIFT are rows of `vectors`, and the direction is PER_LOGIT times the second."""

_GROWTH = np.array(GROWTH)
_EPS = float(np.finfo(np.float32).eps)
_TINY = float(np.finfo(np.float32).tiny)


@compiled
def project_rows(resid, out, vectors, figures, on, record):
    """Write the steered `resid` (rows, seq, hidden_size) to `out` and note in `record` what was done.

    `vectors` (n, hidden_size) float32 holds what rows may share, `figures` is (rows, 16) float64, `on` (slots, rows,
    seq) bool.
    """
    rows, length, _ = resid.shape
    for row in range(rows):
        figure = figures[row]
        slot, weight, lift = int(figure[SLOT]), vectors[int(figure[WEIGHT])], vectors[int(figure[LIFT])]
        for token in range(length):
            source, target = resid[row, token], out[row, token]
            if figure[ACTIVE] == 0 or not on[slot, row, token]:
                target[:] = source
                continue
            before, spread, size = read_spread(source, weight)
            before += figure[BIAS]
            after, over = before, False
            moved = (before < figure[LOW] or before > figure[HIGH]) and figure[STRENGTH] > 0
            if moved:
                after, over = _move(source, target, weight, lift, figure, before, spread, size)
            else:
                target[:] = source
            free = figure[LOW] == -math.inf and figure[HIGH] == math.inf
            inside = free or (math.isfinite(after) and figure[LOW] <= after <= figure[HIGH])
            note(
                record[row, token, slot],
                figure[SCALE] * before + figure[SHIFT],
                figure[SCALE] * after + figure[SHIFT],
                change(source, target, size) if moved else 0.0,
                moved,
                not inside and over,
                figure[GAVE] != 0,
                not inside and not over and figure[GAVE] == 0,
            )


@compiled
def read_spread(resid, weight):
    """weight . resid, ||weight * resid|| and ||resid|| of one token, float64."""
    logit, spread, size = 0.0, 0.0, 0.0
    for index in range(len(resid)):
        value = np.float64(resid[index])
        product = value * np.float64(weight[index])
        logit += product
        spread += product * product
        size += value * value
    return logit, math.sqrt(spread), math.sqrt(size)


@compiled
def change(before, after, size):
    """||after - before|| / size: the dose of one token."""
    square = 0.0
    for index in range(len(before)):
        difference = np.float64(after[index]) - np.float64(before[index])
        square += difference * difference
    return math.sqrt(square) / max(size, _TINY)


@compiled
def _move(resid, out, weight, lift, figure, before, spread, size):
    """Try the candidates of one token in order; the stored value's logit, and whether the budget was too small."""
    low, high, per = figure[LOW], figure[HIGH], figure[PER_LOGIT]
    headroom = _EPS * (4 * spread + abs(before) + figure[REACH])
    inset = min(2 * headroom, (high - low) / 2)
    gap = (min(max(before, low + inset), high - inset) - before) * figure[STRENGTH]
    allowed = figure[MAX_DOSE] * max(size, _TINY) / max(figure[LENGTH], _TINY)
    step = math.copysign(_EPS / 2 * spread, gap)
    first, furthest = -1, gap
    for candidate in range(len(_GROWTH)):
        furthest = gap + _GROWTH[candidate] * step
        after = _store(resid, out, weight, lift, min(max(furthest, -allowed), allowed) * per) + figure[BIAS]
        if figure[PROMISED] == 0:
            return after, abs(furthest) > allowed
        if low + headroom <= after <= high - headroom:
            return after, False
        if first < 0 and low <= after <= high and math.isfinite(after):
            first = candidate
    chosen = gap + _GROWTH[max(first, 0)] * step
    after = _store(resid, out, weight, lift, min(max(chosen, -allowed), allowed) * per) + figure[BIAS]
    return after, abs(furthest) > allowed


@compiled
def _store(resid, out, weight, lift, share):
    """out = resid + share * lift as it is stored, and weight . out."""
    logit = 0.0
    for index in range(len(resid)):
        value = np.float32(np.float64(resid[index]) + share * np.float64(lift[index]))
        out[index] = value
        logit += np.float64(value) * np.float64(weight[index])
    return logit
