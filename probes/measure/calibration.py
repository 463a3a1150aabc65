"""Platt scaling: from a logit to a probability that means what it says.

    P(concept) = sigmoid(a * logit + b)

with (a, b) minimising the cross entropy on texts the weights never saw (Platt 1999). The targets are Platt's
(n1 + 1) / (n1 + 2) and 1 / (n0 + 2) instead of 1 and 0, so that perfectly separated classes give a finite slope.
The slope must be positive: bounds in probability are turned into bounds in logit, and the sign decides which side.

Isotonic regression, the best non-decreasing map of logits to probabilities, is fitted on the same texts for comparison
only: it is a step function, so a bound in probability would not be one bound in logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from probes.errors import FitError

Wide = NDArray[np.float64]

_STEPS = 100


class Calibration(NamedTuple):
    """P(concept) = sigmoid(scale * logit + shift), scale > 0."""

    scale: float
    shift: float

    def probability(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) -> (n,), without overflow."""
        return _sigmoid(self.scale * logits + self.shift)


IDENTITY = Calibration(1.0, 0.0)
"""A logit taken at its word."""


def platt(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """Fit (a, b) by Newton's method with step halving.

    Raises FitError when a class is absent, a logit is not finite, or the slope is not positive.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        raise FitError("calibration texts hold one class only; give texts with and without the concept (--calibration)")
    if not np.isfinite(logits).all():
        raise FitError("calibration logits are not finite; the fit diverged")
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    scale, shift = _newton((logits - centre) / spread, targets)
    scale, shift = scale / spread, shift - scale * centre / spread
    if not scale > 0:
        raise FitError(
            f"the calibration slope is {scale:.3g}, expected a positive one: on the calibration texts a higher logit "
            "means less of the concept. Their labels are inverted (check --positive), or this layer does not read the "
            "concept"
        )
    return Calibration(float(np.float32(scale)), float(np.float32(shift)))


def isotonic(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Callable[[Wide], Wide]:
    """The least-squares non-decreasing map from logits (n,) to labels (n,), flat beyond the ends; a function."""
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(logits, labels)

    def probability(values: Wide) -> Wide:
        found: Wide = fitted.predict(values)
        return found

    return probability


def _newton(z: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """argmin over (a, b) of the mean cross entropy between `targets` and sigmoid(a z + b); convex, two unknowns."""
    theta = np.zeros(2)
    design = np.stack([z, np.ones_like(z)], axis=1)

    def loss(at: NDArray[np.float64]) -> float:
        value = design @ at
        return float((np.logaddexp(0.0, value) - targets * value).mean())

    for _ in range(_STEPS):
        probability = _sigmoid(design @ theta)
        gradient = design.T @ (probability - targets) / len(z)
        if np.abs(gradient).max() < 1e-10:
            break
        curvature = (design.T * (probability * (1 - probability))) @ design / len(z) + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(theta - step) > loss(theta) and np.abs(step).max() > 1e-12:
            step = step / 2
        theta = theta - step
    return float(theta[0]), float(theta[1])


def _sigmoid(value: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.exp(-np.abs(value))
    return np.where(value >= 0, 1.0, positive) / (1.0 + positive)
