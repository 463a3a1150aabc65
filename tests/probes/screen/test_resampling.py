"""Intervals and p-values against scipy, Holm against an example worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from probes.screen.resampling import holm, percentile_interval, resampled_means, sign_flip_p


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.0])
def test_the_sign_flip_p_is_that_of_scipy(shift):
    differences = np.random.default_rng(1).standard_normal(12) + shift
    exact = stats.permutation_test(
        (differences, np.zeros(12)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue
    (found,) = sign_flip_p(differences[None], seed=0)
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-4)


def test_no_difference_at_all_is_no_evidence():
    assert sign_flip_p(np.zeros((2, 30)), seed=0) == [1.0, 1.0]


def test_holm_by_hand():
    # Sorted: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, .04 x 1 = .04 but not below .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_bootstrap_interval_is_that_of_scipy():
    values = np.random.default_rng(2).gamma(2.0, size=(3, 60))
    found = percentile_interval(resampled_means(values, seed=0))
    for row, interval in zip(values, found, strict=True):
        reference = stats.bootstrap((row,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
        assert interval == pytest.approx(tuple(reference), abs=0.03 * row.std())


def test_every_set_is_resampled_alike():
    values = np.random.default_rng(3).standard_normal((1, 40))
    one, two = resampled_means(np.concatenate([values, values + 1.0]), seed=5, resamples=50)
    assert two - one == pytest.approx(np.ones(50))
