"""`mean.negative`, `mean.positive`: the mean activation of each class, for `additive`, `ablate` and `setpoint`."""

from __future__ import annotations

from probes.fitting.samples import Toward, narrowed, source_and_target
from probes.harvest.shards import Floats


def fit_means(negative: Floats, positive: Floats, *, toward: Toward = "negative") -> dict[str, Floats]:
    """Class means, (hidden_size,) each, from (texts, hidden_size) per class.

    They are stored by class, so `toward` is there because every fit has it, and is not used. Raises FitError for an
    empty class, shapes that do not match or numbers that are not finite.
    """
    low, high = source_and_target(negative, positive, "positive")
    return narrowed({"mean.negative": low.mean(axis=0), "mean.positive": high.mean(axis=0)})
