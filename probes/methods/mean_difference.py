"""Difference of class means: the direction v = mean(x | 1) - mean(x | 0), in raw coordinates.

The mean of each class carries no scale and no threshold, so both are chosen by a one-dimensional logistic fit on the
training projections: logit = a (v . x) + b. Nothing is regularised; there is no C.
"""

from __future__ import annotations

import numpy as np

from probes.harvest.shards import Floats
from probes.methods.samples import Affine, Labels, scaled, standardise

SOLVER = "difference of class means, scale and bias by 1-D logistic regression on the projections, float64"


def fit_mean_difference(resid: Floats, labels: Labels) -> Affine:
    """Fit on `resid` (texts, hidden_size) and `labels` (texts,) of 0 and 1.

    Raises FitError when there is one class only, when nothing varies, or when the class means agree.
    """
    data = standardise(resid, labels)
    apart = data.values[labels == 1].mean(axis=0) - data.values[labels == 0].mean(axis=0)
    direction = apart * data.std**2  # v . x of the raw difference, as a direction in standardised coordinates
    scale, shift = scaled(data.values @ direction, labels)
    return data.folded(np.asarray(scale * direction), shift)
