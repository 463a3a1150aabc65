"""Logistic regression on residuals, the scaler folded in, and the two controls that say what chance looks like.

On standardised activations u = (x - mean) / std the fit minimises, in float64,

    sum_i log(1 + exp(-y_i (v . u_i + c)))  +  ||v||^2 / (2 C),      y_i in {-1, +1}

and leaves `weight = v / std`, `bias = c - mean . weight`, so that a probe always reads raw residuals. A coordinate that
never varies gets std 1 and weight 0. Deterministic: the objective is strictly convex and the solver uses no randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from probes.errors import FitError
from probes.metrics import auroc, log_loss
from probes.shards import Floats

Labels = NDArray[np.int64]
Logits = NDArray[np.float64]

SOLVER = "scikit-learn LogisticRegression, lbfgs, L2, standardised, float64"
PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
"""Values of C tried in cross-validation. Residuals of hundreds to thousands of correlated coordinates and some thousand
texts want strong shrinkage: 0.003 for the shipped toxicity and sentiment probes. Classes that are separable (language)
take the largest value, which is why the grid ends there: beyond it only the norm of the weights would grow."""
FOLDS = 3


@dataclass(frozen=True, eq=False)
class Affine:
    """`logit = weight . resid + bias` in raw coordinates, as it will be stored."""

    weight: Floats
    """(hidden_size,)"""
    bias: float

    def logit(self, resid: Floats) -> Logits:
        """(texts, hidden_size) -> (texts,), the stored float32 weights applied in float64."""
        logits: Logits = resid.astype(np.float64) @ self.weight.astype(np.float64) + self.bias
        return logits


def fit_affine(resid: Floats, labels: Labels, *, c: float, max_iter: int = 2000) -> Affine:
    """Fit on `resid` (texts, hidden_size) and `labels` (texts,) of 0 and 1; `c` is the inverse L2 strength C.

    Raises FitError when there is one class only, when nothing varies, or when the solver does not converge.
    """
    if len(np.unique(labels)) != 2:
        raise FitError("labels hold one class only; a probe separates two")
    wide = resid.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    constant = std <= 1e-12 * np.maximum(1.0, np.abs(mean))
    if constant.all():
        raise FitError("all texts have the same activations, so nothing separates them; check the texts and the layer")
    std[constant] = 1.0
    model = LogisticRegression(C=c, solver="lbfgs", tol=1e-5, max_iter=max_iter)
    model.fit((wide - mean) / std, labels)
    if model.n_iter_[0] >= max_iter:
        raise FitError(f"the fit did not converge within {max_iter} steps at C={c:g}; give a smaller --C", param="C")
    coef = np.where(constant, 0.0, model.coef_[0])
    weight = (coef / std).astype(np.float32)
    return Affine(weight=weight, bias=float(np.float32(model.intercept_[0] - mean @ weight.astype(np.float64))))


def choose_penalty(
    layers: Sequence[Callable[[], Floats]],
    labels: Labels,
    folds: NDArray[np.int64],
    *,
    grid: Sequence[float] = PENALTIES,
) -> float:
    """The C of `grid` with the least held-out log loss, averaged over `layers` and folds; ties go to the smaller C.

    Each entry of `layers` loads the (texts, hidden_size) activations of one layer, so that one at a time is in memory.
    """
    losses = np.zeros(len(grid))
    for load in layers:
        resid = load()
        for fold in np.unique(folds):
            held = folds == fold
            if len(np.unique(labels[~held])) < 2 or not held.any():
                continue
            for at, c in enumerate(grid):
                fitted = fit_affine(resid[~held], labels[~held], c=c)
                losses[at] += log_loss(_sigmoid(fitted.logit(resid[held])), labels[held])
    return float(grid[int(np.argmin(losses))])


def random_label_auroc(
    train: Floats, labels: Labels, test: Floats, test_labels: Labels, *, c: float, seed: int
) -> float:
    """AUROC of a probe fitted to shuffled labels: what the same machinery finds where there is nothing to find."""
    shuffled = np.random.default_rng(seed).permutation(labels)
    return auroc(fit_affine(train, shuffled, c=c).logit(test), test_labels)


def random_direction_auroc(test: Floats, test_labels: Labels, *, seed: int) -> float:
    """AUROC of one isotropic random direction, the better of its two signs: what any direction would read."""
    direction = np.random.default_rng(seed).standard_normal(test.shape[1])
    found = auroc(test.astype(np.float64) @ direction, test_labels)
    return max(found, 1.0 - found)


def _sigmoid(logits: Logits) -> Logits:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-logits))
