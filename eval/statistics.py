"""Intervals: how far the figures of a small sample can be trusted. Pure functions; empty input is NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

_FLIPS = 1000  # held in memory at once


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of each of m tests (Holm 1979): max over j <= i of min(1, (m - j + 1) p_(j)), p rising.

    All below 0.05 hold together with a family-wise error of at most 0.05, whatever their dependence. NaN is no test:
    it stays NaN and is not counted.
    """
    known = sorted((p, at) for at, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[at] = highest
    return adjusted


def sign_flip(differences: Sequence[float], *, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p that paired differences have mean 0, by flipping their signs (Fisher's randomisation test).

    Exact for up to 12 differences that are not 0, else (1 + flips at least as extreme) / (1 + resamples). NaN entries
    are left out; no difference at all gives 1.
    """
    moved = np.asarray([value for value in differences if value and not math.isnan(value)], dtype=np.float64)
    if moved.size == 0:
        return 1.0 if any(not math.isnan(value) for value in differences) else math.nan
    least = abs(moved.sum()) * (1 - 1e-12)
    if moved.size <= 12:
        signs = np.array(list(product((-1.0, 1.0), repeat=moved.size)))
        return float((np.abs(signs @ moved) >= least).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, resamples, _FLIPS):
        rows = min(_FLIPS, resamples - start)
        signs = rng.integers(0, 2, (rows, moved.size), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ moved) >= least).sum())
    return (1 + extreme) / (1 + resamples)


@dataclass(frozen=True)
class Paired:
    """How one arm's share differs from another's on the same prompts."""

    change: Estimate
    """Bootstrap over prompts"""
    p: float
    """Exact McNemar for rates, sign flips for means; NaN where there is no test"""
    prompts: int = 0
    """That both arms have a value for"""
    left_out: int = 0
    """Pairs of samples in which either has no value"""

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
    p = mcnemar(differences.count(1.0), differences.count(-1.0))
    return Paired(bootstrap(differences), p, len(differences))
