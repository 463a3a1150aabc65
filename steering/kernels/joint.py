"""Several slabs per row, held together; see `steering.joint` for the programme and its candidates."""

from __future__ import annotations

import math

import numpy as np

from steering.box_qp import MAX_CONSTRAINTS
from steering.kernels.box import solve
from steering.kernels.compiling import compiled
from steering.kernels.notes import note
from steering.kernels.single import change, read_spread
from steering.slab import GROWTH

BIAS, LOW, HIGH, REACH, SIZE, SCALE, SHIFT, GAVE, WEIGHT, LIFT, PER_UNIT = range(11)
"""Columns of `figures`, one row each of the batch and constraint. SIZE = sqrt(w' M w); WEIGHT and LIFT are rows of
`vectors`, and the change per unit of multiplier is PER_UNIT times the second."""
STRENGTH, MAX_DOSE, PROMISED = range(3)
"""Columns of `shared`, one row each of the batch."""

_GROWTH = np.array(GROWTH)
_EPS = float(np.finfo(np.float32).eps)
_TINY = float(np.finfo(np.float32).tiny)


@compiled
def project_joint_rows(resid, out, rows, slots, counts, vectors, gram, figures, shared, on, record, rounds):
    """Write the steered `resid` (batch, seq, hidden_size) of `rows` (n,) to `out` and note what was done.

    Of row `rows[i]` the first `counts[i]` constraints count, whose places in its plan are `slots[i]`. `vectors` (v,
    hidden_size) float32 holds what rows may share; `gram` (n, K, K), `figures` (n, K, 11), `shared` (n, 3) float64;
    `rounds` (n,).
    """
    room = (len(_GROWTH) + 8, MAX_CONSTRAINTS)
    scratch = np.empty(room)
    bounds = np.empty((2, MAX_CONSTRAINTS))
    for index in range(len(rows)):
        row, count = rows[index], counts[index]
        figure = figures[index, :count]
        for token in range(resid.shape[1]):
            source, target = resid[row, token], out[row, token]
            before, after, spread = scratch[0, :count], scratch[1, :count], scratch[2, :count]
            low, high = bounds[0, :count], bounds[1, :count]
            size, outside = 0.0, False
            for k in range(count):
                acts = on[slots[index, k], row, token]
                low[k] = figure[k, LOW] if acts else -math.inf
                high[k] = figure[k, HIGH] if acts else math.inf
                before[k], spread[k], size = read_spread(source, vectors[int(figure[k, WEIGHT])])
                before[k] += figure[k, BIAS]
                after[k] = before[k]
                outside |= before[k] < low[k] or before[k] > high[k]
            moved, over = outside and shared[index, STRENGTH] > 0, False
            if moved:
                over = _move(
                    source, target, vectors, gram[index], figure, shared[index], low, high, size,
                    scratch[:, :count], rounds[index],
                )  # fmt: skip
            else:
                target[:] = source
            dose = change(source, target, size) if moved else 0.0
            for k in range(count):
                if not on[slots[index, k], row, token]:
                    continue
                free = low[k] == -math.inf and high[k] == math.inf
                missed = not free and not (math.isfinite(after[k]) and low[k] <= after[k] <= high[k])
                note(
                    record[row, token, slots[index, k]],
                    figure[k, SCALE] * before[k] + figure[k, SHIFT],
                    figure[k, SCALE] * after[k] + figure[k, SHIFT],
                    dose,
                    moved and (before[k] < low[k] or before[k] > high[k]),
                    missed and over,
                    figure[k, GAVE] != 0,
                    missed and not over and figure[k, GAVE] == 0,
                )


@compiled
def _move(resid, out, vectors, gram, figure, shared, low, high, size, scratch, rounds):
    """Try the candidates of one token in order; leaves the stored values in scratch[1], says if the budget bound."""
    before, after, spread, headroom = scratch[0], scratch[1], scratch[2], scratch[3]
    value, near, far, side, guess, multiplier = (
        scratch[4], scratch[5], scratch[6], scratch[7], scratch[8], scratch[9]
    )  # fmt: skip
    count = len(before)
    for k in range(count):
        headroom[k] = _EPS * (4 * spread[k] + abs(before[k]) + figure[k, REACH])
        value[k], near[k], far[k] = before[k] / figure[k, SIZE], low[k] / figure[k, SIZE], high[k] / figure[k, SIZE]
        side[k] = 1.0 if value[k] < near[k] else (-1.0 if value[k] > far[k] else 0.0)
    solve(value, gram, near, far, side, multiplier, rounds)
    first, over = -1, False
    for attempt in range(len(_GROWTH) + 1):
        last = attempt == len(_GROWTH)
        candidate = max(first, 0) if last else attempt
        for k in range(count):
            guess[k] = side[k]
            margin = (2 * headroom[k] + _GROWTH[candidate] * _EPS / 2 * spread[k]) / figure[k, SIZE]
            near[k], far[k] = _aim(low[k] / figure[k, SIZE], high[k] / figure[k, SIZE], margin, side[k])
        solve(value, gram, near, far, guess, multiplier, rounds)
        share = _store(resid, out, vectors, figure, multiplier, shared, size)
        over = over if last else share < 1.0
        inside, safely = True, True
        for k in range(count):
            after[k] = read_spread(out, vectors[int(figure[k, WEIGHT])])[0] + figure[k, BIAS]
            if figure[k, GAVE] != 0:
                continue
            inside &= math.isfinite(after[k]) and low[k] <= after[k] <= high[k]
            safely &= low[k] + headroom[k] <= after[k] <= high[k] - headroom[k]
        if shared[PROMISED] == 0 or safely or last:
            return over
        if inside and first < 0:
            first = candidate
    return over


@compiled
def _aim(low, high, margin, side):
    """A met bound is aimed past by the whole margin, however narrow the slab; a free one steps back half-way."""
    half = min(margin, (high - low) / 2)
    near = low + (margin if side > 0 else half)
    far = high - (margin if side < 0 else half)
    if side > 0:
        far = max(far, near)
    if side < 0:
        near = min(far, near)
    return near, far


@compiled
def _store(resid, out, vectors, figure, multiplier, shared, size):
    """out = resid + share * delta as it is stored; the share of delta the budget allows."""
    delta = np.zeros(len(resid))
    for k in range(len(multiplier)):
        if multiplier[k] != 0:
            lift, amount = vectors[int(figure[k, LIFT])], multiplier[k] * figure[k, PER_UNIT] * shared[STRENGTH]
            for index in range(len(resid)):
                delta[index] += amount * np.float64(lift[index])
    square = 0.0
    for index in range(len(resid)):
        square += delta[index] * delta[index]
    share = min(1.0, shared[MAX_DOSE] * max(size, _TINY) / max(math.sqrt(square), _TINY))
    for index in range(len(resid)):
        out[index] = np.float32(np.float64(resid[index]) + share * delta[index])
    return share
