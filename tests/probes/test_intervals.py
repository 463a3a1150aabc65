"""Intervals agree with slow or independent ones, hold the truth about as often as they say, and never collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from probes.measure.intervals import auroc_gain, auroc_interval, ece_interval, wilson
from probes.measure.metrics import auroc, ece
from probes.measure.reliability import reliability


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 10), (250, 1000)])
def test_wilson_agrees_with_scipy(successes, n):
    reference = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_nothing_measured_is_nan():
    assert all(map(math.isnan, wilson(0, 0)))
    assert all(map(math.isnan, auroc_interval(np.array([1.0, 2.0]), np.array([1, 1]))))
    assert all(map(math.isnan, ece_interval(np.array([]), np.array([], dtype=int))))


def _delong(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """AUROC and DeLong's variance by comparing every pair."""
    up, down = scores[labels == 1], scores[labels == 0]
    wins = (up[:, None] > down[None, :]) + 0.5 * (up[:, None] == down[None, :])
    return float(wins.mean()), float(wins.mean(1).var(ddof=1) / len(up) + wins.mean(0).var(ddof=1) / len(down))


def test_the_auroc_interval_is_delongs_on_the_logit_scale():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 150)
    scores = np.round(random.standard_normal(150) + labels, 1)  # rounded: many ties
    found, variance = _delong(scores, labels)
    half = norm.ppf(0.975) * math.sqrt(variance) / (found * (1 - found))
    expected = [1 / (1 + math.exp(-(math.log(found / (1 - found)) + side * half))) for side in (-1, 1)]
    assert auroc_interval(scores, labels) == pytest.approx(expected, abs=1e-9)


def test_rows_repeated_within_their_group_make_no_interval_narrower():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 80)
    scores = random.standard_normal(80) + labels
    probabilities = 1 / (1 + np.exp(-scores))
    rows, texts = (np.repeat(values, 5) for values in (scores, np.arange(80)))
    once, many = auroc_interval(scores, labels), auroc_interval(rows, labels[texts], groups=texts)
    assert many == pytest.approx(once, abs=1e-9)
    narrow = auroc_interval(rows, labels[texts])
    assert narrow[1] - narrow[0] < 0.6 * (once[1] - once[0])
    again = ece_interval(probabilities[texts], labels[texts], groups=texts)
    assert again == pytest.approx(ece_interval(probabilities, labels), abs=1e-9)


def test_perfect_separation_is_not_certainty():
    labels = np.repeat([0, 1], 50)
    low, high = auroc_interval(np.arange(100.0), labels)
    assert 0.9 < low < 0.99
    assert high == 1.0
    assert auroc_interval(-np.arange(100.0), labels) == pytest.approx((1 - high, 1 - low))
    low, high = auroc_interval(np.zeros(100), labels)
    assert low < 0.42 < 0.58 < high


def test_auroc_intervals_hold_the_truth_about_95_times_in_100():
    random = np.random.default_rng(2)
    truth = norm.cdf(1.5 / math.sqrt(2))
    held = 0
    for _ in range(300):
        labels = random.integers(0, 2, 120)
        low, high = auroc_interval(random.standard_normal(120) + 1.5 * labels, labels)
        held += low <= truth <= high
    assert 0.91 <= held / 300 <= 0.99


def _two_read_outs(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and a weak and a better read-out that share most of their noise."""
    labels = random.integers(0, 2, count)
    shared = random.standard_normal(count)
    first, second = (shared + 0.5 * random.standard_normal(count) + gap * labels for gap in (0.8, 1.2))
    return labels, first, second


def test_the_interval_of_a_gain_is_delongs_for_two_read_outs_of_the_same_rows():
    labels, first, second = _two_read_outs(np.random.default_rng(3), 150)

    def wins(scores: np.ndarray) -> np.ndarray:
        up, down = scores[labels == 1], scores[labels == 0]
        return (up[:, None] > down[None, :]) + 0.5 * (up[:, None] == down[None, :])

    up, down = (np.cov(wins(first).mean(side), wins(second).mean(side)) for side in (1, 0))
    variance = sum(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1] for cov in (up / sum(labels == 1), down / sum(labels == 0)))
    half = norm.ppf(0.975) * math.sqrt(variance)
    gain, interval = auroc_gain([first], [second], labels)
    assert gain == pytest.approx(auroc(second, labels) - auroc(first, labels), abs=1e-12)
    assert interval == pytest.approx((gain - half, gain + half), abs=1e-9)
    backwards, (low, high) = auroc_gain([second], [first], labels)
    assert (backwards, low, high) == pytest.approx((-gain, -interval[1], -interval[0]))


def test_a_gain_of_several_read_outs_is_that_of_their_mean_and_of_one_over_itself_nothing():
    labels, first, second = _two_read_outs(np.random.default_rng(4), 90)
    gain, _ = auroc_gain([first, -first], [second, first], labels)
    assert gain == pytest.approx((auroc(second, labels) + auroc(first, labels)) / 2 - 0.5)
    assert auroc_gain([first], [first], labels) == (0.0, (0.0, 0.0))
    assert all(map(math.isnan, auroc_gain([first], [second], np.zeros(90, int))[1]))


def test_rows_repeated_within_their_group_make_no_gain_surer():
    labels, first, second = _two_read_outs(np.random.default_rng(5), 80)
    once = auroc_gain([first], [second], labels)
    texts = np.repeat(np.arange(80), 5)
    gain, interval = auroc_gain([first[texts]], [second[texts]], labels[texts], groups=texts)
    assert gain == pytest.approx(once[0])
    assert interval == pytest.approx(once[1], abs=1e-9)


def test_intervals_of_a_gain_hold_the_truth_about_95_times_in_100():
    random = np.random.default_rng(6)
    truth = norm.cdf(1.2 / math.sqrt(2.5)) - norm.cdf(0.8 / math.sqrt(2.5))
    held = 0
    for _ in range(300):
        labels, first, second = _two_read_outs(random, 120)
        _, (low, high) = auroc_gain([first], [second], labels)
        held += low <= truth <= high
    assert 0.91 <= held / 300 <= 0.99


@pytest.mark.parametrize("slope", [1.0, 0.6])
def test_ece_intervals_hold_the_truth_most_of_the_time(slope):
    random = np.random.default_rng(3)

    def sigmoid(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value))

    many = random.normal(0, 2, 400_000)
    index = np.minimum((sigmoid(many) * 15).astype(int), 14)
    truth = np.abs(np.bincount(index, weights=sigmoid(slope * many) - sigmoid(many))).sum() / len(many)
    held = 0
    for seed in range(80):
        logits = random.normal(0, 2, 500)
        labels = (random.random(500) < sigmoid(slope * logits)).astype(int)
        low, high = ece_interval(sigmoid(logits), labels, seed=seed)
        held += low <= truth + 1e-12 and truth <= high
    assert held >= 65


def test_an_overconfident_read_out_has_an_interval_above_zero_and_a_seed():
    random = np.random.default_rng(4)
    logits = random.normal(0, 1, 800)
    labels = (random.random(800) < 1 / (1 + np.exp(-logits))).astype(int)
    promised = 1 / (1 + np.exp(-4 * logits))
    low, high = ece_interval(promised, labels, seed=1)
    assert 0 < low < high
    assert (low, high) == ece_interval(promised, labels, seed=1)
    assert (low, high) != ece_interval(promised, labels, seed=2)


def test_the_reliability_curve_holds_every_text_and_adds_up_to_the_ece():
    random = np.random.default_rng(5)
    probabilities = np.concatenate([random.random(300) ** 3, [0.0, 1.0]])
    labels = random.integers(0, 2, 302)
    bins = reliability(probabilities, labels)
    assert sum(found.count for found in bins) == 302
    assert sum(found.count * abs(found.observed - found.mean) for found in bins) / 302 == pytest.approx(
        ece(probabilities, labels)
    )
    for found in bins:
        assert found.low <= found.mean <= found.high
        assert found.interval[0] <= found.observed <= found.interval[1]
