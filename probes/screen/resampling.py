"""Intervals and p-values of paired figures, for many sets of layers at once.

The bootstrap resamples prompts (and neutral texts) with one draw of counts for all sets, so that differences between
sets stay paired. The p-value is that of the sign-flip permutation test: if steering and its placebo are exchangeable
at every prompt, each paired difference is as likely to have the other sign. Holm (1979) corrects for the number of
sets: the i-th smallest of m p-values is multiplied by m - i + 1, and no adjusted value is below an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

RESAMPLES = 10_000
FLIPS = 20_000


def resampled_means(values: Numbers, *, seed: int, resamples: int = RESAMPLES) -> Numbers:
    """(sets, n) -> (sets, resamples): means over n drawn with replacement, the same draws for every set."""
    n = values.shape[-1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    means: Numbers = values @ (counts.T / n)
    return means


def percentile_interval(drawn: Numbers, *, confidence: float = 0.95) -> list[tuple[float, float]]:
    """(sets, resamples) -> one percentile interval per set."""
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=-1)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def sign_flip_p(differences: Numbers, *, seed: int, flips: int = FLIPS) -> list[float]:
    """(sets, n) -> one-sided p of each mean being above zero, (1 + #{flipped mean >= mean}) / (1 + flips)."""
    n = differences.shape[-1]
    signs = np.random.default_rng(seed).integers(0, 2, size=(n, flips)).astype(np.float64) * 2 - 1
    means = differences.mean(axis=-1)
    slack = 1e-12 * np.abs(differences).max(axis=-1)  # the same sum in another order must count as equal
    reached = (differences @ signs / n >= (means - slack)[:, None]).sum(axis=-1)
    p_values: list[float] = ((1 + reached) / (1 + flips)).tolist()
    return p_values


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, at most 1, in the given order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
