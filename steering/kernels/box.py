"""`steering.box_qp.solve_box` for one row, in place: the same pivoting, but it stops when nothing is wrong."""

from __future__ import annotations

import numpy as np

from steering.box_qp import MAX_CONSTRAINTS, PATIENCE, REFINEMENTS, RIDGE
from steering.kernels.compiling import compiled


@compiled
def solve(value, gram, low, high, side, multiplier, rounds):
    """Multipliers of the nearest point of the box, (K,) float64, written to `multiplier`; `side` holds the first guess
    and then the answer: 1 at the low bound, -1 at the high one, 0 inside."""
    count = len(value)
    wanted = np.empty(MAX_CONSTRAINTS)
    best, patience = count + 1, PATIENCE
    for _ in range(rounds):
        _solve_active(value, gram, low, high, side, multiplier)
        bad, last = 0, -1
        for k in range(count):
            wanted[k] = side[k] if side[k] * multiplier[k] >= 0 else 0.0
            if side[k] == 0:
                reached = value[k]
                for j in range(count):
                    reached += gram[k, j] * multiplier[j]
                slack = 1e-12 * (1.0 + abs(value[k]) + _finite(low[k]) + _finite(high[k]))
                wanted[k] = 1.0 if reached < low[k] - slack else (-1.0 if reached > high[k] + slack else 0.0)
            if wanted[k] != side[k]:
                bad, last = bad + 1, k
        if bad == 0:
            return
        patience = PATIENCE if bad < best else patience - 1
        best = min(best, bad)
        for k in range(count):
            if patience >= 0 or k == last:
                side[k] = wanted[k]


@compiled
def _finite(bound):
    return abs(bound) if np.isfinite(bound) else 0.0


@compiled
def _solve_active(value, gram, low, high, side, multiplier):
    """Multipliers that put every active constraint on its bound, zero elsewhere: ridge, elimination, refinement."""
    size = 0
    active = np.empty(MAX_CONSTRAINTS, np.int64)
    for k in range(len(value)):
        multiplier[k] = 0.0
        if side[k] != 0:
            active[size] = k
            size += 1
    system = np.empty((MAX_CONSTRAINTS, MAX_CONSTRAINTS))
    aim, found = np.empty(MAX_CONSTRAINTS), np.zeros(MAX_CONSTRAINTS)
    right = np.empty(MAX_CONSTRAINTS)
    for i in range(size):
        k = active[i]
        aim[i] = (low[k] if side[k] > 0 else high[k]) - value[k]
        for j in range(size):
            system[i, j] = gram[k, active[j]]
        system[i, i] += RIDGE
    _factor(system, size)
    for _ in range(1 + REFINEMENTS):
        for i in range(size):
            right[i] = aim[i] + RIDGE * found[i]
        _substitute(system, right, size)
        found[:size] = right[:size]
    for i in range(size):
        multiplier[active[i]] = found[i]


@compiled
def _factor(system, size):
    """LU in place. The matrix is symmetric positive definite by its ridge, so no pivoting is needed."""
    for k in range(size):
        for i in range(k + 1, size):
            system[i, k] /= system[k, k]
            for j in range(k + 1, size):
                system[i, j] -= system[i, k] * system[k, j]


@compiled
def _substitute(system, right, size):
    for i in range(size):
        for j in range(i):
            right[i] -= system[i, j] * right[j]
    for i in range(size - 1, -1, -1):
        for j in range(i + 1, size):
            right[i] -= system[i, j] * right[j]
        right[i] /= system[i, i]
