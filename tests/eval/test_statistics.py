"""Intervals against hand-computed values and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from eval.statistics import bootstrap, mcnemar, median, paired, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (6, 34), (17, 34), (64, 64), (1, 1000)])
def test_wilson_agrees_with_scipy(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    found = wilson(hits, n)
    assert found.value == hits / n
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_of_six_in_thirty_four_is_eight_to_thirty_four_percent() -> None:
    found = wilson(6, 34)
    assert (round(found.low, 2), round(found.high, 2)) == (0.08, 0.34)


def test_an_empty_sample_has_no_figure() -> None:
    assert all(math.isnan(value) for value in wilson(0, 0))
    assert all(math.isnan(value) for value in bootstrap([]))
    assert all(math.isnan(value) for value in bootstrap([math.nan]))


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    sample = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = bootstrap(list(sample), resamples=4000)
    half = 1.96 * sample.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(sample.mean())
    assert found.low == pytest.approx(sample.mean() - half, abs=0.03)
    assert found.high == pytest.approx(sample.mean() + half, abs=0.03)


def test_bootstrap_leaves_nan_out_and_is_the_same_for_the_same_seed() -> None:
    values = [1.0, math.nan, 2.0, 9.0]
    assert bootstrap(values, median).value == 2.0
    assert bootstrap(values, median) == bootstrap(values, median)


@pytest.mark.parametrize(("worse", "better"), [(0, 4), (4, 0), (0, 6), (3, 11), (7, 7), (20, 2)])
def test_mcnemar_agrees_with_the_exact_binomial_test(worse: int, better: int) -> None:
    expected = stats.binomtest(worse, worse + better, 0.5).pvalue
    assert mcnemar(worse, better) == pytest.approx(expected, abs=1e-12)


def test_arms_that_never_disagree_are_alike() -> None:
    assert mcnemar(0, 0) == 1.0


def test_beyond_chance_takes_both_the_interval_and_mcnemar() -> None:
    four = paired([False] * 64, [True] * 4 + [False] * 60)
    six = paired([False] * 64, [True] * 6 + [False] * 58)
    assert four.change.high < 0
    assert (four.lower, six.lower, six.higher) == (False, True, False)
    assert paired([True] * 6 + [False] * 58, [False] * 64).higher
