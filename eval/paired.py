"""One arm against another on the same prompts and seeds: intervals by resampling prompts, and p values.

    change   statistic(arm) - statistic(control), over the pairs of samples that have a value in both arms
    interval percentile bootstrap over prompts: a prompt is drawn with all its samples, in both arms at once
    p        rates: exact McNemar over prompts. A prompt with several samples falls to the side on which it has more
             hits, which is the sign test, and McNemar's for one sample
             means: sign flips of the prompts' mean differences
             medians: none

Prompts, not samples, are what is drawn: samples of one prompt are alike, and counting each would make any difference
look sure. Values are given as prompt -> one per sample, with the same seed in the same place in both arms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.metrics.scores import THRESHOLD, Side, hits
from eval.statistics import Estimate, Paired, bootstrap, mcnemar, sign_flip
from steering.errors import InvalidRequest

Key = TypeVar("Key", bound=Hashable)
Samples = Mapping[Key, Sequence[float]]
Array = NDArray[np.float64]

RESAMPLES = 2000


def compare_rates(
    arm: Samples[Key], control: Samples[Key], *, threshold: float = THRESHOLD, side: Side = "above", seed: int = 0
) -> Paired:
    """Difference of the shares of hits. Raises InvalidRequest unless the arms have the same prompts and samples."""
    ones, others = (
        {key: hits(values, threshold=threshold, side=side) for key, values in samples.items()}
        for samples in (arm, control)
    )
    pairs = _pair(ones, others)
    gaps = pairs.gaps
    p = mcnemar(int((gaps > 0).sum()), int((gaps < 0).sum())) if gaps.size else math.nan
    return pairs.compared(bootstrap(gaps.tolist(), resamples=RESAMPLES, seed=seed), p)


def compare_means(arm: Samples[Key], control: Samples[Key], *, seed: int = 0) -> Paired:
    """Difference of the means over prompts of the prompts' means. Raises as `compare_rates`."""
    pairs = _pair(arm, control)
    gaps = pairs.gaps.tolist()
    return pairs.compared(bootstrap(gaps, resamples=RESAMPLES, seed=seed), sign_flip(gaps, seed=seed))


def compare_medians(arm: Samples[Key], control: Samples[Key], *, seed: int = 0) -> Paired:
    """Difference of the medians over all samples, such as of perplexities. Raises as `compare_rates`."""
    pairs = _pair(arm, control)
    return pairs.compared(paired_bootstrap(pairs.arm, pairs.control, np.median, seed=seed), math.nan)


def paired_bootstrap(
    arm: Array,
    control: Array,
    statistic: Callable[[Array], Any],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """statistic(arm) - statistic(control) with its interval, for values (prompts, samples) NaN in both or none."""
    kept = ~np.isnan(arm)
    rows = np.flatnonzero(kept.any(axis=1))
    if rows.size == 0:
        return Estimate(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)

    def change(drawn: NDArray[np.intp]) -> float:
        there = kept[drawn]
        return float(statistic(arm[drawn][there]) - statistic(control[drawn][there]))

    values = [change(rows[rng.integers(0, rows.size, rows.size)]) for _ in range(resamples)]
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(values, [tail, 100 - tail])
    return Estimate(change(rows), float(low), float(high))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """(prompts, samples) of both arms, padded with NaN, and NaN in both where a value is missing in one."""

    arm: Array
    control: Array
    left_out: int

    @property
    def gaps(self) -> Array:
        """Mean difference of each prompt that has a pair."""
        known = ~np.isnan(self.arm)
        count = known.sum(axis=1)
        total = np.where(known, self.arm - self.control, 0.0).sum(axis=1)
        gaps: Array = total[count > 0] / count[count > 0]
        return gaps

    def compared(self, change: Estimate, p: float) -> Paired:
        return Paired(change, p, prompts=int((~np.isnan(self.arm)).any(axis=1).sum()), left_out=self.left_out)


def _pair(arm: Samples[Key], control: Samples[Key]) -> _Pairs:
    if arm.keys() != control.keys():
        raise InvalidRequest(
            f"the arms share {len(arm.keys() & control.keys())} prompts of {len(arm)} and {len(control)}; paired "
            "figures need the same prompts in both"
        )
    if any(len(values) != len(control[key]) for key, values in arm.items()):
        raise InvalidRequest("the arms have different numbers of samples of one prompt; paired figures need the same")
    shape = (len(arm), max(map(len, arm.values()), default=0))
    ours, theirs = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, (key, values) in enumerate(arm.items()):
        ours[row, : len(values)] = values
        theirs[row, : len(values)] = control[key]
    missing = np.isnan(ours) | np.isnan(theirs)
    ours[missing] = theirs[missing] = np.nan
    return _Pairs(ours, theirs, sum(map(len, arm.values())) - int((~missing).sum()))
