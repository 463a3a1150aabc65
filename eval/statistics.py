"""Intervals: how far the figures of a small sample can be trusted. Pure functions; empty input is NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """Share successes / n with the Wilson score interval (Wilson 1927), which behaves at 0 and 1.

    centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)
    """
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[np.ndarray], float] = lambda sample: float(np.mean(sample)),
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap interval of a statistic of `values`; NaN entries are left out.

    For paired arms pass the per-prompt differences: resampling prompts keeps the pairs together.
    """
    known = np.asarray([value for value in values if not math.isnan(value)], dtype=np.float64)
    if known.size == 0:
        return Estimate(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = [statistic(known[rng.integers(0, known.size, known.size)]) for _ in range(resamples)]
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Estimate(statistic(known), float(low), float(high))


def median(sample: np.ndarray) -> float:
    """The middle value, for `bootstrap`."""
    return float(np.median(sample))


def mcnemar(worse: int, better: int) -> float:
    """Exact two-sided p of McNemar's test: prompts on which two arms disagree fall to either side like a fair coin."""
    n = worse + better
    tail: float = sum(math.comb(n, k) for k in range(min(worse, better) + 1)) / 2**n
    return min(1.0, 2 * tail)


@dataclass(frozen=True)
class Paired:
    """How one arm's share differs from another's on the same prompts."""

    change: Estimate
    """Bootstrap over prompts"""
    p: float
    """Exact McNemar"""

    @property
    def lower(self) -> bool:
        """Lower beyond chance. The bootstrap alone is too sure of itself when few prompts differ: 4 against 0 of 64."""
        return self.change.high < 0 and self.p < 0.05

    @property
    def higher(self) -> bool:
        """Higher beyond chance."""
        return self.change.low > 0 and self.p < 0.05


def paired(hits: Sequence[bool], control: Sequence[bool]) -> Paired:
    """Share of `hits` less share of `control`, prompt by prompt."""
    differences = [float(hit) - float(was) for hit, was in zip(hits, control, strict=True)]
    return Paired(bootstrap(differences), mcnemar(differences.count(1.0), differences.count(-1.0)))
