"""How sure a figure is: 95% intervals for a proportion, an AUROC, a gain in it and an expected calibration error.

`groups` gives each row the number of its cluster: tokens of one text, or the two texts of a pair, are not independent,
and an interval that counts them as if they were is too narrow. Without it every row stands for itself.

    wilson          a proportion: the score interval, never empty and never outside [0, 1]
    auroc_interval  DeLong's variance (1988), for clusters Obuchowski's (1997), on the logit scale; where all scores are
                    on their right side, or all tied, that variance is 0 and Hanley and McNeil's (1982) is inverted
    auroc_gain      how much more a second read-out of the same rows has: both AUROCs' components subtracted row by row,
                    so that what makes both high or low on these rows falls away; not on the logit scale
    ece_interval    the basic bootstrap over clusters, and 0 when labels drawn from the probabilities themselves have an
                    ECE as large. The ECE of a finite sample is too high, by about as much as that of a resample is
                    higher still; the basic interval takes it off, so that most of it may lie below the figure itself.
                    In simulations of 1,000 texts it held the true ECE in 89% to 96% of cases, percentiles of the
                    resamples in 0% to 78%
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import rankdata

from probes.measure.metrics import ECE_BINS, Array, auroc

Interval = tuple[float, float]
Groups = NDArray[np.int64]

Z = 1.959963984540054
RESAMPLES = 1000
_CHUNK = 4_000_000  # draws held in memory at once


def wilson(successes: float, n: int) -> Interval:
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with p = successes / n; NaN for n = 0.

    `successes` may end in a half, where a tie counts as one.
    """
    if n == 0:
        return math.nan, math.nan
    share, square = successes / n, Z * Z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def auroc_interval(scores: Array, labels: Array, *, groups: Groups | None = None) -> Interval:
    """For scores (n,) and labels (n,) of 0 and 1; NaN when a class is absent."""
    found = auroc(scores, labels)
    if math.isnan(found):
        return math.nan, math.nan
    own = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    positive = labels == 1
    clusters = len(np.unique(own[positive])), len(np.unique(own[~positive]))
    variance = _clustered_variance(*_components(scores, positive), positive, own) if min(clusters) > 1 else 0.0
    if variance <= 1e-16 or found in (0.0, 1.0):
        return _inverted(found, *clusters)
    middle, half = math.log(found / (1 - found)), Z * math.sqrt(variance) / (found * (1 - found))
    return _sigmoid(middle - half), _sigmoid(middle + half)


def auroc_gain(
    first: Sequence[Array], second: Sequence[Array], labels: Array, *, groups: Groups | None = None
) -> tuple[float, Interval]:
    """Mean AUROC of the read-outs `second` less that of `first`, each read-out (n,) scores of the same rows.

    The interval is NaN when a class stands in fewer than two clusters.
    """
    positive = labels == 1
    own = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if min(len(np.unique(own[positive])), len(np.unique(own[~positive]))) < 2:
        means = [float(np.mean([auroc(scores, labels) for scores in read])) for read in (first, second)]
        return means[1] - means[0], (math.nan, math.nan)
    before, after = ([_components(scores, positive) for scores in read] for read in (first, second))
    above, below = (
        np.mean([found[side] for found in after], axis=0) - np.mean([found[side] for found in before], axis=0)
        for side in (0, 1)
    )
    gain = float(above.mean())
    half = Z * math.sqrt(max(0.0, _clustered_variance(above, below, positive, own)))
    return gain, (gain - half, gain + half)


def ece_interval(
    probabilities: Array, labels: Array, *, groups: Groups | None = None, bins: int = ECE_BINS, seed: int = 0
) -> Interval:
    """[2 e - q(97.5%), 2 e - q(2.5%)] with q over `RESAMPLES` resamples of the clusters; NaN when empty.

    The lower end is 0 when e is no larger than the 97.5th percentile of the ECE under perfect calibration, where each
    cluster draws one number u and its rows the labels u < p. Deterministic in `seed`.
    """
    if len(labels) == 0:
        return math.nan, math.nan
    own = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(own.max()) + 1
    index = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(own * bins + index, weights=labels - probabilities, minlength=count * bins).reshape(count, bins)
    sizes = np.bincount(own, minlength=count).astype(np.float64)
    inside = np.eye(bins)[index]
    random = np.random.default_rng(seed)
    resampled, calibrated = [], []
    for rows in _chunks(len(labels)):
        drawn = random.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        resampled.append(np.abs(times @ gaps).sum(axis=1) / (times @ sizes))
        promised = random.random((rows, count))[:, own] < probabilities
        calibrated.append(np.abs((promised - probabilities) @ inside).sum(axis=1) / len(labels))
    found = float(np.abs(gaps.sum(axis=0)).sum() / len(labels))
    low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5])
    honest = found <= float(np.percentile(np.concatenate(calibrated), 97.5))
    return 0.0 if honest else max(0.0, 2 * found - float(high)), min(1.0, max(0.0, 2 * found - float(low)))


def _chunks(width: int) -> list[int]:
    """`RESAMPLES` divided so that no part times `width` is over what may be held in memory."""
    rows = min(RESAMPLES, max(1, _CHUNK // width))
    return [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]


def _components(scores: Array, positive: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Share of the negatives each positive stands above, and of the positives each negative stands below."""
    overall, ups, downs = rankdata(scores), int(positive.sum()), int((~positive).sum())
    above = (overall[positive] - rankdata(scores[positive])) / downs
    below = 1 - (overall[~positive] - rankdata(scores[~positive])) / ups
    return above, below


def _clustered_variance(above: Array, below: Array, positive: NDArray[np.bool_], own: Groups) -> float:
    """Variance of the mean of `above`, which is that of `below`, from these structural components."""
    ups, downs, found = len(above), len(below), float(above.mean())
    count = int(own.max()) + 1
    up = np.bincount(own[positive], weights=above - found, minlength=count)
    down = np.bincount(own[~positive], weights=below - found, minlength=count)
    with_up, with_down = len(np.unique(own[positive])), len(np.unique(own[~positive]))
    return float(
        with_up / (with_up - 1) * (up @ up) / ups**2
        + with_down / (with_down - 1) * (down @ down) / downs**2
        + 2 * count / (count - 1) * (up @ down) / (ups * downs)
    )


def _inverted(found: float, ups: int, downs: int) -> Interval:
    """{a : |found - a| <= z sqrt(V(a))}, V Hanley and McNeil's variance of `ups` positives and `downs` negatives."""

    def variance(a: float) -> float:
        first, second = a / (2 - a), 2 * a * a / (1 + a)
        spread = a * (1 - a) + (ups - 1) * (first - a * a) + (downs - 1) * (second - a * a)
        return max(0.0, spread) / (ups * downs)

    def outside(a: float) -> float:
        return abs(found - a) - Z * math.sqrt(variance(a))

    low = 0.0 if found == 0.0 else _root(outside, 0.0, found)
    high = 1.0 if found == 1.0 else _root(outside, 1.0, found)
    return low, high


def _root(outside: Callable[[float], float], end: float, found: float) -> float:
    near = found + (end - found) * 1e-9
    return float(brentq(outside, end, near)) if outside(end) > 0 > outside(near) else end


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
