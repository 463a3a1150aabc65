"""The stored metric is scikit-learn's shrunk covariance, its variances exact, whatever blocks it was summed over."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from probes.errors import FitError
from probes.fitting.metric import fit_metric, in_blocks, truncate, within_class
from steering.fitted import check_fitted
from steering.metric import Metric


def classes(counts: tuple[int, int] = (150, 210), width: int = 40, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed, correlated, far from zero, variances over eight decades, class means apart."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * 10 ** rng.uniform(-1, 0.5, width)
    scale = 10 ** rng.uniform(-2, 2, width)
    drawn = [(rng.standard_t(4, (n, width)) @ mixing + 30 * rng.standard_normal(width)) * scale for n in counts]
    return drawn[0].astype(np.float32), drawn[1].astype(np.float32)


def centred(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    wide = [part.astype(np.float64) - part.astype(np.float64).mean(axis=0) for part in (negative, positive)]
    return np.concatenate(wide)


def dense(fitted: dict[str, np.ndarray]) -> np.ndarray:
    factor = fitted["metric.factor"].astype(np.float64)
    matrix: np.ndarray = np.diag(fitted["metric.diagonal"].astype(np.float64)) + factor @ factor.T
    return matrix


@pytest.mark.parametrize("counts", [(150, 210), (3000, 2500), (12, 9)], ids=["some", "many", "fewer than coordinates"])
def test_shrinkage_and_covariance_are_scikit_learns_on_standardised_rows(counts):
    negative, positive = classes(counts)
    rows = centred(negative, positive)
    std = np.sqrt((rows**2).mean(axis=0))
    expected, shrinkage = ledoit_wolf(rows / std, assume_centered=True)
    found = within_class(lambda: in_blocks(negative, positive, rows=64))
    assert 0.001 < found.shrinkage < 1
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-8)
    np.testing.assert_allclose(found.std, std, rtol=1e-10)
    np.testing.assert_allclose(found.correlation, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 8, 39, 500])
def test_the_diagonal_is_the_variance_within_classes_and_the_rest_is_positive(rank):
    negative, positive = classes()
    fitted = fit_metric(negative, positive, rank=rank)
    assert fitted["metric.factor"].shape == (40, min(rank, 39))
    assert all(value.dtype == np.float32 for value in fitted.values())
    variance = (centred(negative, positive) ** 2).mean(axis=0)
    np.testing.assert_allclose(np.diag(dense(fitted)), variance, rtol=1e-5)
    shrinkage = within_class(lambda: in_blocks(negative, positive)).shrinkage
    assert (fitted["metric.diagonal"] >= 0.999 * shrinkage * variance).all()


def test_at_full_rank_nothing_is_lost():
    negative, positive = classes()
    within = within_class(lambda: in_blocks(negative, positive))
    whole = within.correlation * np.outer(within.std, within.std)
    error = (dense(truncate(within, rank=39)) - whole) / np.outer(within.std, within.std)
    assert np.abs(error).max() < 1e-5


def test_a_higher_rank_is_never_further_from_the_covariance():
    within = within_class(lambda: in_blocks(*classes()))
    scale = np.outer(within.std, within.std)
    errors = [
        np.linalg.norm(dense(truncate(within, rank=rank)) / scale - within.correlation) for rank in (1, 4, 16, 39)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_blocks_and_shards_change_nothing_beyond_rounding():
    negative, positive = classes()
    whole = within_class(lambda: in_blocks(negative, positive))

    def mixed() -> Iterable[tuple[np.ndarray, int]]:  # shards hold both classes, in any order
        for at in range(0, 210, 37):
            yield positive[at : at + 37], 1
            if len(negative[at : at + 37]):
                yield negative[at : at + 37], 0

    for blocks in (lambda: in_blocks(negative, positive, rows=1), mixed):
        found = within_class(blocks)
        assert found.shrinkage == pytest.approx(whole.shrinkage, rel=1e-9)
        np.testing.assert_allclose(found.correlation, whole.correlation, atol=1e-11)
        np.testing.assert_allclose(found.std, whole.std, rtol=1e-11)


def test_the_distance_between_the_classes_is_no_part_of_it():
    negative, positive = classes()
    near, far = fit_metric(negative, positive), fit_metric(negative - np.float32(1.0), positive)
    np.testing.assert_allclose(dense(far), dense(near), rtol=1e-3, atol=1e-3 * dense(near).diagonal().min())


def test_units_of_single_coordinates_carry_over():
    negative, positive = classes()
    units = (2.0 ** np.arange(-20, 20)).astype(np.float32)  # exact
    plain, scaled = fit_metric(negative, positive, rank=6), fit_metric(negative * units, positive * units, rank=6)
    np.testing.assert_allclose(scaled["metric.factor"], plain["metric.factor"] * units[:, None], rtol=1e-6)
    np.testing.assert_allclose(scaled["metric.diagonal"], plain["metric.diagonal"] * units**2, rtol=1e-6)


def test_fits_are_deterministic_and_each_column_points_up_where_it_is_heaviest():
    negative, positive = classes()
    first, second = (fit_metric(negative, positive, toward=toward) for toward in ("negative", "positive"))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    std = np.sqrt((centred(negative, positive) ** 2).mean(axis=0))
    columns = first["metric.factor"] / std[:, None]
    assert (columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])] > 0).all()


def test_a_coordinate_that_never_varies_is_as_dear_as_the_dearest():
    negative, positive = classes()
    negative[:, 3], positive[:, 3] = 7.0, 9.0
    fitted = fit_metric(negative, positive, rank=4)
    without = fit_metric(np.delete(negative, 3, axis=1), np.delete(positive, 3, axis=1), rank=4)
    assert np.diag(dense(fitted))[3] == pytest.approx(np.diag(dense(without)).min(), rel=1e-4)
    rest = np.delete(np.delete(dense(fitted), 3, axis=0), 3, axis=1)
    np.testing.assert_allclose(rest, dense(without), rtol=1e-5, atol=1e-6 * np.abs(dense(without)).max())


def test_what_is_stored_is_a_metric_that_the_base_reads():
    fitted = {name: torch.from_numpy(value) for name, value in fit_metric(*classes()).items()}
    check_fitted(fitted, hidden_size=40, where="here")
    metric = Metric(fitted["metric.diagonal"], fitted["metric.factor"])
    assert bool((metric.norm(torch.eye(40)) > 0).all())


def test_whitening_makes_the_typical_row_as_long_as_it_has_coordinates():
    negative, positive = classes((3000, 3000))
    metric = Metric(*map(torch.from_numpy, fit_metric(negative, positive, rank=39).values()))
    rows = torch.from_numpy(centred(negative, positive))
    assert float(metric.norm(rows).square().mean()) == pytest.approx(40, rel=0.1)


@pytest.mark.parametrize(
    ("negative", "positive", "reason"),
    [
        (np.zeros((0, 4)), np.ones((9, 4)), "1 classes"),
        (np.ones((1, 4)), np.ones((1, 4)), "2 training texts"),
        (np.ones((9, 4)), np.full((9, 4), 2.0), "same activations"),
        (np.full((9, 4), np.nan), np.ones((9, 4)), "NaN"),
        (np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([[5.0, 5.0], [3.0, 3.0]]), "singular"),
        (1e25 * np.eye(4), 1e25 * np.eye(4)[:3], "float32"),
    ],
)
def test_what_has_no_covariance_is_refused_with_the_reason(negative, positive, reason):
    with pytest.raises(FitError, match=reason):
        fit_metric(negative.astype(np.float32), positive.astype(np.float32))
