"""Metrics agree with hand-computed examples and with scikit-learn, and say NaN rather than zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from probes.measure.metrics import accuracy, auroc, brier, ece, log_loss


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 500)
    return np.round(np.clip(generator.normal(0.4 + 0.2 * labels, 0.25), 0, 1), 2), labels  # rounded: many ties


def test_metrics_agree_with_scikit_learn_ties_included(sample):
    probabilities, labels = sample
    assert auroc(probabilities, labels) == pytest.approx(reference.roc_auc_score(labels, probabilities))
    assert brier(probabilities, labels) == pytest.approx(reference.brier_score_loss(labels, probabilities))
    assert accuracy(probabilities, labels) == pytest.approx(reference.accuracy_score(labels, probabilities >= 0.5))
    clipped = np.clip(probabilities, 0.01, 0.99)
    assert log_loss(clipped, labels) == pytest.approx(reference.log_loss(labels, clipped))


def test_auroc_by_hand():
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert auroc(np.array([1.0, 1.0]), np.array([0, 1])) == 0.5


def test_auroc_does_not_depend_on_the_scale(sample):
    scores, labels = sample
    assert auroc(np.exp(5 * scores), labels) == auroc(scores, labels)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels))


def test_ece_by_hand():
    probabilities = np.array([0.1, 0.12, 0.9, 1.0])
    labels = np.array([0, 1, 1, 1])
    assert ece(probabilities, labels, bins=2) == pytest.approx((abs(1 - 0.22) + abs(2 - 1.9)) / 4)


def test_ece_has_fifteen_equal_bins_closed_on_the_left():
    assert ece(np.array([1 / 15, 0.0]), np.array([1, 0])) == pytest.approx((1 - 1 / 15) / 2)
    assert ece(np.array([1.0]), np.array([1])) == 0.0


def test_brier_by_hand():
    assert brier(np.array([0.5, 1.0]), np.array([1, 1])) == 0.125


def test_empty_input_and_absent_classes_are_nan():
    empty = np.array([])
    for metric in (auroc, accuracy, brier, ece, log_loss):
        assert math.isnan(metric(empty, empty.astype(int)))
    assert math.isnan(auroc(np.array([0.3, 0.4]), np.array([1, 1])))
