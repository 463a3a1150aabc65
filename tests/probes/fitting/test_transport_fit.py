"""Linear-AcT: the line of each coordinate, against numpy's least squares and what it does to quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from probes.errors import FitError
from probes.fitting.transport import fit_transport


def moved(side, found):
    return side * found["transport.scale"] + found["transport.shift"]


def test_two_texts_by_hand():
    negative, positive = np.float32([[3, 1], [1, 0]]), np.float32([[10, 5], [20, 5]])  # the order of rows is no matter
    found = fit_transport(negative, positive, toward="positive")
    assert found["transport.scale"].tolist() == [5.0, 0.0]
    assert found["transport.shift"].tolist() == [5.0, 5.0]


def test_it_is_the_least_squares_line_through_the_sorted_values_of_each_coordinate():
    random = np.random.default_rng(0)
    source = random.gamma(2.0, size=(90, 5)).astype(np.float32)
    target = (random.standard_normal((90, 5)) * 3 + 1).astype(np.float32)
    found = fit_transport(source, target, toward="positive")
    for at in range(5):
        x, y = np.sort(source[:, at]).astype(float), np.sort(target[:, at]).astype(float)
        slope, level = np.polyfit(x, y, 1)
        assert found["transport.scale"][at] == pytest.approx(slope, rel=1e-5)
        assert found["transport.shift"][at] == pytest.approx(level, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("toward", ["negative", "positive"])
def test_samples_that_an_increasing_line_relates_are_carried_onto_each_other_exactly(toward):
    random = np.random.default_rng(1)
    negative = random.standard_normal((70, 4))
    positive = random.permuted(negative * [0.5, 2.0, 1.0, 7.0] + [1.0, -3.0, 0.0, 100.0], axis=0)
    source, target = (negative, positive) if toward == "positive" else (positive, negative)
    found = fit_transport(negative.astype(np.float32), positive.astype(np.float32), toward=toward)
    np.testing.assert_allclose(np.sort(moved(source, found), axis=0), np.sort(target, axis=0), atol=2e-4)


def test_the_mean_is_matched_exactly_and_no_other_increasing_line_comes_nearer(classes):
    source, target = classes[0][:200].astype(float), classes[1].astype(float)
    found = fit_transport(source.astype(np.float32), target.astype(np.float32), toward="positive")
    carried = moved(source, found)
    scale = target.std(axis=0)
    np.testing.assert_allclose(carried.mean(axis=0) / scale, target.mean(axis=0) / scale, atol=1e-5)
    random = np.random.default_rng(0)

    def distance(samples):
        return ((np.sort(samples, axis=0) - np.sort(target, axis=0)) ** 2).sum(axis=0)

    for _ in range(100):
        factor, step = 1 + 0.1 * random.standard_normal(6), 0.1 * random.standard_normal(6) * scale
        other = source * found["transport.scale"] * np.abs(factor) + found["transport.shift"] + step
        assert np.all(distance(other) >= distance(carried) * (1 - 1e-6))


def test_unequal_classes_are_compared_at_equal_quantiles(classes):
    negative, positive = classes  # 300 and 200
    found = fit_transport(negative, positive, toward="positive")
    carried = moved(negative.astype(float), found)
    for at in range(6):
        before = wasserstein_distance(negative[:, at], positive[:, at])
        after = wasserstein_distance(carried[:, at], positive[:, at])
        assert after < before / 5
    twice = fit_transport(np.repeat(negative, 2, axis=0), np.repeat(positive, 3, axis=0), toward="positive")
    np.testing.assert_allclose(twice["transport.scale"], found["transport.scale"], rtol=0.02)


def test_a_coordinate_that_never_varies_is_shifted_and_not_scaled():
    negative, positive = np.full((9, 2), 0.1, np.float32), np.full((9, 2), 0.7, np.float32)
    positive[:, 1] += np.arange(9)
    found = fit_transport(negative, positive, toward="positive")
    assert found["transport.scale"].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(found["transport.shift"], [0.6, 4.6], rtol=1e-6)


def test_one_text_has_no_spread_to_match():
    with pytest.raises(FitError, match="positive class has 1 texts, this fit needs at least 2"):
        fit_transport(np.ones((5, 2), np.float32), np.zeros((1, 2), np.float32), toward="positive")
