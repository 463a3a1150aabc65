"""`affine.matrix`, `affine.shift`: the map that gives one class the mean and covariance of the other (2402.09631).

    W = Ss^-1/2 (Ss^1/2 St Ss^1/2)^1/2 Ss^-1/2,     b = mu_t - W mu_s

s is the class away from the side steered toward, t the class on it. Among all affine maps x -> W x + b with these two
moments it moves the source class least in the mean square; W is symmetric. Covariances are divided by n.

With few texts per coordinate W is mostly noise: it carries the accidents of one sample onto those of the other. So more
texts than coordinates are demanded of each class, many times more advised, and `shrinkage` moves both covariances
towards their average: 0 is the paper, 1 makes W = I and leaves mean matching.
"""

from __future__ import annotations

import numpy as np

from probes.errors import FitError
from probes.fitting.samples import Toward, Wide, narrowed, source_and_target
from probes.harvest.shards import Floats

FLAT = 1e-12
"""Smallest variance along any axis, as a share of the largest, that can be divided by."""


def fit_affine_map(negative: Floats, positive: Floats, *, toward: Toward, shrinkage: float = 0.0) -> dict[str, Floats]:
    """`affine.matrix` (hidden_size, hidden_size) and `affine.shift` (hidden_size,) from (texts, hidden_size) per class.

    Raises FitError for a class with no more texts than coordinates, a source class without variance along some axis,
    `shrinkage` outside [0, 1], shapes that do not match or numbers that are not finite.
    """
    if not 0.0 <= shrinkage <= 1.0:
        raise FitError(f"shrinkage is {shrinkage}; give a share from 0 (the paper) to 1 (the mean only)")
    source, target = source_and_target(negative, positive, toward, least=negative.shape[-1] + 1)
    covariances = [np.cov(side, rowvar=False, bias=True).reshape(side.shape[1], -1) for side in (source, target)]
    average = (covariances[0] + covariances[1]) / 2
    spread_s, spread_t = (shrinkage * average + (1.0 - shrinkage) * found for found in covariances)
    root, inverse = _roots(spread_s)
    matrix = inverse @ _square_root(root @ spread_t @ root) @ inverse
    shift = target.mean(axis=0) - matrix @ source.mean(axis=0)
    return narrowed({"affine.matrix": (matrix + matrix.T) / 2, "affine.shift": shift})


def _roots(covariance: Wide) -> tuple[Wide, Wide]:
    """S^1/2 and S^-1/2 of a positive definite matrix. Raises FitError when it is not."""
    values, vectors = np.linalg.eigh(covariance)
    if not values[0] > FLAT * values[-1]:
        raise FitError(
            "the class to be moved does not vary along some axis, so no map can give it the other's covariance; give "
            "more texts, a larger shrinkage, or use the mean-only map"
        )
    return (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T


def _square_root(matrix: Wide) -> Wide:
    """The symmetric square root; eigenvalues that rounding made negative count as zero."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root: Wide = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    return root
