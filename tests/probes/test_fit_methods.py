"""Every method agrees with its textbook form on raw activations, and its logit is on a scale that means something."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from probes.errors import FitError
from probes.measure.metrics import auroc, log_loss
from probes.methods.fit import candidates, choose_setting, ledoit_wolf
from probes.methods.lda import auto_shrinkage, fit_lda
from probes.methods.logistic import fit_affine
from probes.methods.mean_difference import fit_mean_difference
from probes.methods.table import Setting, fit_direction

SETTINGS = [Setting("logistic", C=0.1), Setting("mean-difference"), Setting("lda", shrinkage=0.1)]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_mean_difference_is_the_difference_of_the_class_means(blobs):
    resid, labels = blobs
    wide = resid.astype(np.float64)
    direction = wide[labels == 1].mean(axis=0) - wide[labels == 0].mean(axis=0)
    found = fit_mean_difference(resid, labels)
    np.testing.assert_allclose(_unit(found.weight), _unit(direction), atol=1e-6)
    projected = wide @ direction
    standard = ((projected - projected.mean()) / projected.std())[:, None]
    reference = LogisticRegression(C=1.0, tol=1e-10).fit(standard, labels).decision_function(standard)
    np.testing.assert_allclose(found.logit(resid), reference, atol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.9])
def test_lda_has_the_direction_of_scikit_learns(blobs, shrinkage):
    resid, labels = blobs
    wide = resid.astype(np.float64)
    standard = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(standard, labels).coef_[0]
    found = fit_lda(resid, labels, shrinkage=shrinkage)
    np.testing.assert_allclose(_unit(found.weight * wide.std(axis=0)), _unit(reference), atol=1e-5)


def test_automatic_shrinkage_is_that_of_ledoit_and_wolf_within_classes(blobs):
    resid, labels = blobs
    wide = resid.astype(np.float64)
    standard = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    within = np.concatenate([standard[labels == label] - standard[labels == label].mean(axis=0) for label in (0, 1)])
    assert auto_shrinkage(resid, labels) == pytest.approx(LedoitWolf(assume_centered=True).fit(within).shrinkage_)
    assert ledoit_wolf([lambda: (resid, labels, labels)]) == auto_shrinkage(resid, labels)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.method)
def test_every_logit_is_a_log_odds_and_every_fit_repeats_itself(blobs, setting):
    resid, labels = blobs
    found, again = (fit_direction(resid[:300], labels[:300], setting) for _ in range(2))
    assert found.weight.dtype == np.float32
    assert (found.weight == again.weight).all()
    assert found.bias == again.bias
    held = found.logit(resid[300:])
    assert auroc(held, labels[300:]) > 0.6
    assert log_loss(expit(held), labels[300:]) < np.log(2)
    assert log_loss(expit(held), labels[300:]) < min(
        log_loss(expit(held * factor), labels[300:]) for factor in (4.0, -1.0)
    )


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.method)
def test_a_shift_of_the_stream_moves_the_bias_and_not_the_read_out(blobs, setting):
    resid, labels = blobs
    shifted = resid + 10 * resid.std(axis=0, dtype=np.float64).astype(np.float32)
    here, there = fit_direction(resid, labels, setting), fit_direction(shifted, labels, setting)
    np.testing.assert_allclose(there.logit(shifted), here.logit(resid), atol=5e-3)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.method)
def test_a_coordinate_that_never_varies_gets_no_weight(blobs, setting):
    resid, labels = blobs
    resid = np.concatenate([resid, np.full((len(resid), 1), 7.0, dtype=np.float32)], axis=1)
    assert fit_direction(resid, labels, setting).weight[-1] == 0.0


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.method)
def test_one_class_is_refused(blobs, setting):
    with pytest.raises(FitError, match="one class"):
        fit_direction(blobs[0], np.zeros_like(blobs[1]), setting)


def test_equal_class_means_are_refused():
    half = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    with pytest.raises(FitError, match=r"same mean activation|do not rise"):
        fit_mean_difference(np.concatenate([half, half]), np.repeat([0, 1], 50))


def test_a_covariance_without_an_inverse_names_the_way_out():
    random = np.random.default_rng(0)
    labels = np.arange(10) % 2
    resid = (random.standard_normal((10, 40)) + labels[:, None]).astype(np.float32)
    with pytest.raises(FitError, match="larger --shrinkage"):
        fit_lda(resid, labels, shrinkage=0.0)
    assert np.isfinite(fit_lda(resid, labels, shrinkage=0.2).weight).all()


def test_cross_validation_shrinks_lda_where_coordinates_are_many():
    random = np.random.default_rng(1)
    labels = np.arange(90) % 2
    resid = (random.standard_normal((90, 60)) + 0.2 * labels[:, None]).astype(np.float32)
    chosen = choose_setting([lambda: (resid, labels, np.arange(90) % 3)], candidates("lda"))
    assert chosen.method == "lda"
    assert chosen.shrinkage >= 0.3


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.method)
@pytest.mark.parametrize("count", [1, 5, 12])
def test_a_sparse_probe_has_exactly_its_coordinates(blobs, setting, count):
    resid, labels = blobs
    sparse = Setting(setting.method, C=setting.C, shrinkage=setting.shrinkage, coordinates=count)
    found = fit_direction(resid, labels, sparse)
    assert np.count_nonzero(found.weight) == count
    if count == resid.shape[1]:
        np.testing.assert_array_equal(found.weight, fit_direction(resid, labels, setting).weight)
    kept = np.flatnonzero(found.weight)
    alone = fit_direction(np.ascontiguousarray(resid[:, kept]), labels, setting)
    np.testing.assert_array_equal(alone.weight, found.weight[kept])
    assert alone.bias == found.bias


def test_a_sparse_probe_finds_the_coordinates_that_matter():
    random = np.random.default_rng(2)
    labels = np.arange(600) % 2
    resid = random.standard_normal((600, 64)).astype(np.float32) * np.logspace(-2, 2, 64, dtype=np.float32)
    planted = [3, 31, 60]
    resid[:, planted] += 1.5 * labels[:, None] * np.logspace(-2, 2, 64, dtype=np.float32)[planted]
    found = fit_direction(resid, labels, Setting(C=0.1, coordinates=3))
    assert np.flatnonzero(found.weight).tolist() == planted


@pytest.mark.parametrize("count", [0, 13])
def test_coordinates_that_are_not_there_are_refused(blobs, count):
    with pytest.raises(FitError, match="from 1 to 12"):
        fit_direction(*blobs, Setting(C=0.1, coordinates=count))


def test_logistic_agrees_with_an_independent_newton_solver_to_1e_4(blobs):
    resid, labels = blobs
    wide = resid.astype(np.float64)
    standard = np.column_stack([(wide - wide.mean(axis=0)) / wide.std(axis=0), np.ones(len(wide))])
    ridge = np.append(np.full(resid.shape[1], 1 / 0.1), 0.0)
    theta = np.zeros(standard.shape[1])
    for _ in range(50):
        chance = expit(standard @ theta)
        curvature = (standard.T * (chance * (1 - chance))) @ standard + np.diag(ridge)
        theta -= np.linalg.solve(curvature, standard.T @ (chance - labels) + ridge * theta)
    np.testing.assert_allclose(fit_affine(resid, labels, c=0.1).logit(resid), standard @ theta, atol=1e-4)
