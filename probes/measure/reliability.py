"""The reliability curve as numbers: what was promised and what was observed, bin by bin.

The bins are those of `probes.measure.metrics.ece`: equal widths over [0, 1], closed on the left, the last on both
sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes.measure.intervals import Interval, wilson
from probes.measure.metrics import ECE_BINS, Array


@dataclass(frozen=True)
class ReliabilityBin:
    """The texts whose probability falls into [low, high)."""

    low: float
    high: float
    mean: float
    """Mean predicted probability."""
    observed: float
    """Share of label 1."""
    count: int
    interval: Interval
    """95% Wilson interval of `observed`; too narrow where rows are tokens of the same texts."""


def reliability(probabilities: Array, labels: Array, *, bins: int = ECE_BINS) -> tuple[ReliabilityBin, ...]:
    """The bins that hold anything, rising, of probabilities (n,) and labels (n,) of 0 and 1."""
    index = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    found = []
    for at in np.unique(index):
        inside = index == at
        count, positive = int(inside.sum()), int((labels[inside] == 1).sum())
        found.append(
            ReliabilityBin(
                low=int(at) / bins,
                high=(int(at) + 1) / bins,
                mean=float(probabilities[inside].mean()),
                observed=positive / count,
                count=count,
                interval=wilson(positive, count),
            )
        )
    return tuple(found)
