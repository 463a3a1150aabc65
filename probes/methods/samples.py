"""What every method begins and ends with: standardised float64 activations in, a read-out of raw ones out.

    u = (x - mean) / std;    weight = v / std,    bias = c - mean . weight

so that a probe always reads raw residuals. A coordinate that never varies gets std 1 and weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from probes.errors import FitError
from probes.harvest.shards import Floats

Labels = NDArray[np.int64]
Wide = NDArray[np.float64]

MAX_ITER = 5000


@dataclass(frozen=True, eq=False)
class Affine:
    """`logit = weight . resid + bias` in raw coordinates, as it will be stored."""

    weight: Floats
    """(hidden_size,)"""
    bias: float

    def logit(self, resid: Floats) -> Wide:
        """(texts, hidden_size) -> (texts,), the stored float32 weights applied in float64."""
        logits: Wide = resid.astype(np.float64) @ self.weight.astype(np.float64) + self.bias
        return logits


@dataclass(frozen=True, eq=False)
class Standardised:
    """Activations of one layer with the scaler that made them."""

    values: Wide
    """(texts, hidden_size), mean 0 and variance 1 in every coordinate that varies."""
    mean: Wide
    std: Wide
    constant: NDArray[np.bool_]
    """(hidden_size,), coordinates that never vary."""

    def folded(self, direction: Wide, intercept: float) -> Affine:
        """The read-out `direction . u + intercept` in raw coordinates, with the weights rounded as they are stored."""
        weight = (np.where(self.constant, 0.0, direction) / self.std).astype(np.float32)
        return Affine(weight=weight, bias=float(np.float32(intercept - self.mean @ weight.astype(np.float64))))


def standardise(resid: Floats, labels: Labels) -> Standardised:
    """`resid` (texts, hidden_size) ready for a fit to `labels` (texts,) of 0 and 1.

    Raises FitError when there is one class only, or when nothing varies.
    """
    if len(np.unique(labels)) != 2:
        raise FitError("labels hold one class only; a probe separates two")
    wide = resid.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    constant = std <= 1e-12 * np.maximum(1.0, np.abs(mean))
    if constant.all():
        raise FitError("all texts have the same activations, so nothing separates them; check the texts and the layer")
    std[constant] = 1.0
    wide -= mean
    wide /= std
    return Standardised(wide, mean, std, constant)


def regress(values: Wide, labels: Labels, *, c: float, tol: float, max_iter: int = MAX_ITER) -> tuple[Wide, float]:
    """L2-penalised logistic regression of `labels` on `values` (texts, size): the coefficients and the intercept.

    Raises FitError when the solver does not converge.
    """
    model = LogisticRegression(C=c, solver="lbfgs", tol=tol, max_iter=max_iter)
    model.fit(values, labels)
    if model.n_iter_[0] >= max_iter:
        raise FitError(f"the fit did not converge within {max_iter} steps at C={c:g}; give a smaller --C", param="C")
    return model.coef_[0], float(model.intercept_[0])


def scaled(projections: Wide, labels: Labels) -> tuple[float, float]:
    """(scale, shift) that turn `projections` (texts,) on a direction into a logit: a one-dimensional logistic fit.

    For methods that find a direction and no scale. Penalised as if by one text (C = 1 on projections of variance 1),
    so that separated classes get a finite scale. Raises FitError when the projections do not rise with the label.
    """
    centre, spread = float(projections.mean()), float(projections.std())
    if not spread > 0:
        raise FitError("the classes have the same mean activation, so this method finds no direction; take logistic")
    coef, intercept = regress(((projections - centre) / spread)[:, None], labels, c=1.0, tol=1e-10)
    scale = float(coef[0]) / spread
    if not scale > 0:
        raise FitError("the projections on the direction do not rise with the label; check the labels or the layer")
    return scale, intercept - scale * centre
