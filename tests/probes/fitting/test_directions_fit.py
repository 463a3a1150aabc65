"""Class means, contrast vectors and reading vectors, against sums written out and scikit-learn's PCA."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from probes.errors import FitError
from probes.fitting.contrast import fit_contrast
from probes.fitting.means import fit_means
from probes.fitting.reading import fit_reading

PAIRS = np.float32([[[1, 0, 5], [2, 2, 5]], [[0, 1, -3], [4, 1, -1]]])  # (pair, class, hidden_size)


def test_means_by_hand_are_stored_by_class_whatever_the_side():
    for toward in ("negative", "positive"):
        found = fit_means(PAIRS[:, 0], PAIRS[:, 1], toward=toward)
        assert found["mean.negative"].tolist() == [0.5, 0.5, 1.0]
        assert found["mean.positive"].tolist() == [3.0, 1.5, 2.0]


def test_means_are_summed_in_float64():
    many = np.full((100_000, 1), 0.1, dtype=np.float32)
    assert fit_means(many, many)["mean.negative"][0] == np.float32(0.1)


def test_a_contrast_by_hand_is_the_mean_over_pairs_and_points_to_the_side():
    assert fit_contrast(PAIRS[:, 0], PAIRS[:, 1], toward="positive")["contrast.vector"].tolist() == [2.5, 1.0, 1.0]
    assert fit_contrast(PAIRS[:, 0], PAIRS[:, 1], toward="negative")["contrast.vector"].tolist() == [-2.5, -1.0, -1.0]


def test_one_pair_is_the_vector_of_actadd():
    assert fit_contrast(PAIRS[:1, 0], PAIRS[:1, 1], toward="positive")["contrast.vector"].tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("toward", ["negative", "positive"])
def test_a_reading_vector_is_the_first_component_of_the_differences_in_both_orders(toward):
    random = np.random.default_rng(1)
    negative = random.standard_normal((60, 8)).astype(np.float32)
    positive = (random.standard_normal((60, 8)) + np.linspace(0, 1, 8)).astype(np.float32)
    found = fit_reading(negative, positive, toward=toward, paired=True)
    both = np.concatenate([positive - negative, negative - positive]).astype(np.float64)
    judge = PCA(n_components=1, svd_solver="full").fit(both).components_[0]
    side = positive if toward == "positive" else negative
    judge *= np.sign(judge @ (side.mean(axis=0) - (negative.mean(axis=0) + positive.mean(axis=0)) / 2))
    np.testing.assert_allclose(found["reading.vector"], judge, atol=1e-6)
    assert np.linalg.norm(found["reading.vector"]) == pytest.approx(1.0, abs=1e-6)


def test_the_shift_common_to_all_pairs_is_found_though_centred_differences_would_lose_it():
    random = np.random.default_rng(2)
    negative = random.standard_normal((50, 5))
    positive = negative + [0, 0, 4, 0, 0] + 0.1 * random.standard_normal((50, 5)) * [9, 1, 1, 1, 1]
    found = fit_reading(negative.astype(np.float32), positive.astype(np.float32), toward="positive", paired=True)
    assert found["reading.vector"][2] > 0.99
    centred = PCA(n_components=1).fit(positive - negative).components_[0]
    assert abs(centred[2]) < 0.5


def test_the_centre_lies_halfway_between_the_classes_and_tells_them_apart():
    random = np.random.default_rng(3)
    negative, positive = (random.standard_normal((n, 4)) + at for n, at in ((80, [5, 0, 0, 0]), (50, [9, 0, 0, 0])))
    found = fit_reading(negative.astype(np.float32), positive.astype(np.float32), toward="negative")
    vector, center = found["reading.vector"], found["reading.center"]
    assert center == pytest.approx(vector @ (negative.mean(axis=0) + positive.mean(axis=0)) / 2, abs=1e-5)
    assert ((negative @ vector) > center).mean() > 0.9
    assert ((positive @ vector) > center).mean() < 0.1


def test_random_pairs_depend_on_the_seed_alone_and_agree_about_the_axis(classes):
    first, again, other = (fit_reading(*classes, toward="positive", seed=seed)["reading.vector"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first @ other > 0.95


def test_pairs_must_be_as_many_on_both_sides():
    with pytest.raises(FitError, match="2 and 1 texts do not make pairs"):
        fit_reading(PAIRS[:, 0], PAIRS[:1, 1], toward="positive", paired=True)
