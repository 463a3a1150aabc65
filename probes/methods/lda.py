"""Linear discriminant with shrinkage: v = S^-1 (mean(u | 1) - mean(u | 0)) on standardised activations u, with

    S = (1 - s) W + s (trace(W) / hidden_size) I,    W the covariance within classes

`s` is given, or that of Ledoit and Wolf (2004), which minimises the expected squared error of S. The discriminant's
own threshold assumes normal classes of equal covariance; residuals are not, so scale and bias are chosen by a
one-dimensional logistic fit on the training projections instead: logit = a (v . u) + b.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.covariance import ledoit_wolf_shrinkage

from probes.errors import FitError
from probes.harvest.shards import Floats
from probes.methods.samples import Affine, Labels, Standardised, Wide, scaled, standardise

SOLVER = (
    "linear discriminant, shrunk covariance within classes, standardised, scale and bias by 1-D logistic regression on "
    "the projections, float64"
)


def fit_lda(resid: Floats, labels: Labels, *, shrinkage: float) -> Affine:
    """Fit on `resid` (texts, hidden_size) and `labels` (texts,) of 0 and 1; `shrinkage` s from 0 to 1.

    Raises FitError when there is one class only, when nothing varies, when the class means agree, or when the shrunk
    covariance cannot be inverted.
    """
    data = standardise(resid, labels)
    within, apart = _within(data, labels)
    covariance = (1 - shrinkage) * (within.T @ within) / len(within)
    covariance[np.diag_indices_from(covariance)] += shrinkage * float((within**2).mean())
    covariance[data.constant, data.constant] = 1.0
    try:
        direction: Wide = cho_solve(cho_factor(covariance, lower=True), apart)
    except np.linalg.LinAlgError:
        raise FitError(
            f"the covariance within classes cannot be inverted at shrinkage {shrinkage:g}; give a larger --shrinkage, "
            "or auto",
            param="shrinkage",
        ) from None
    scale, shift = scaled(data.values @ direction, labels)
    return data.folded(scale * direction, shift)


def auto_shrinkage(resid: Floats, labels: Labels) -> float:
    """Ledoit and Wolf's shrinkage of the covariance within classes of `resid` (texts, hidden_size), from 0 to 1."""
    within, _ = _within(standardise(resid, labels), labels)
    return float(ledoit_wolf_shrinkage(within, assume_centered=True))


def _within(data: Standardised, labels: Labels) -> tuple[Wide, Wide]:
    """(texts, hidden_size) with each class's mean taken off, and the difference of the two means."""
    low, high = (data.values[labels == label].mean(axis=0) for label in (0, 1))
    return data.values - np.where((labels == 1)[:, None], high, low), high - low
