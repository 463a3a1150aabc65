"""MiMiC: after the map the source class has the target's moments, and no affine map with these moves it less."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from probes.errors import FitError
from probes.fitting.affine import fit_affine_map


def covariance(side):
    centred = side - side.mean(axis=0)
    return centred.T @ centred / len(side)


def moved(side, found):
    return side.astype(float) @ found["affine.matrix"].astype(float).T + found["affine.shift"]


@pytest.mark.parametrize("toward", ["negative", "positive"])
def test_the_moved_source_has_the_mean_and_covariance_of_the_target(toward, classes):
    negative, positive = classes
    source, target = (negative, positive) if toward == "positive" else (positive, negative)
    carried, target = moved(source, fit_affine_map(negative, positive, toward=toward)), target.astype(float)
    scale = target.std(axis=0)
    np.testing.assert_allclose(carried.mean(axis=0) / scale, target.mean(axis=0) / scale, atol=1e-4)
    np.testing.assert_allclose(
        covariance(carried) / np.outer(scale, scale), covariance(target) / np.outer(scale, scale), atol=1e-4
    )


def test_the_matrix_is_the_formula_with_the_matrix_roots_of_scipy(classes):
    source, target = (covariance(side.astype(float)) for side in classes)
    root = np.real(sqrtm(source))
    inverse = np.linalg.inv(root)
    judge = inverse @ np.real(sqrtm(root @ target @ root)) @ inverse
    found = fit_affine_map(*classes, toward="positive")["affine.matrix"]
    np.testing.assert_allclose(found, judge, rtol=1e-4, atol=1e-5 * np.abs(judge).max())


def test_no_other_affine_map_with_the_same_moments_moves_the_source_less(classes):
    source, target = (side.astype(float) for side in classes)
    found = fit_affine_map(*classes, toward="positive")
    least = ((moved(source, found) - source) ** 2).sum(axis=1).mean()
    root, inverse = np.real(sqrtm(covariance(target))), np.linalg.inv(np.real(sqrtm(covariance(source))))
    costs = []
    for rotation in ortho_group.rvs(6, size=200, random_state=0):
        other = (source - source.mean(axis=0)) @ (root @ rotation @ inverse).T + target.mean(axis=0)
        np.testing.assert_allclose(covariance(other), covariance(target), rtol=1e-6, atol=1e-6)
        costs.append(((other - source) ** 2).sum(axis=1).mean())
    assert least < min(costs)


def test_equal_covariances_leave_mean_matching(classes):
    shifted = (classes[0] + np.float32([1, -2, 3, 0, 5, 8])).astype(np.float32)
    found = fit_affine_map(classes[0], shifted, toward="positive")
    np.testing.assert_allclose(found["affine.matrix"], np.eye(6), atol=1e-4)
    np.testing.assert_allclose(moved(classes[0], found), shifted, atol=1e-3)


def test_shrinkage_ends_at_mean_matching_and_lies_between(classes):
    distances = [
        np.linalg.norm(fit_affine_map(*classes, toward="positive", shrinkage=share)["affine.matrix"] - np.eye(6))
        for share in (0.0, 0.5, 0.9, 1.0)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4
    with pytest.raises(FitError, match=r"shrinkage is 1\.5"):
        fit_affine_map(*classes, toward="positive", shrinkage=1.5)


def test_as_many_texts_as_coordinates_are_too_few(classes):
    with pytest.raises(FitError, match="positive class has 6 texts, this fit needs at least 7"):
        fit_affine_map(classes[0], classes[1][:6], toward="positive")


def test_a_source_that_is_flat_along_some_axis_is_refused_with_the_way_out(classes):
    flat = classes[0].copy()
    flat[:, 0] = flat[:, 1]
    with pytest.raises(FitError, match=r"does not vary along some axis.*mean-only"):
        fit_affine_map(flat, classes[1], toward="positive")
