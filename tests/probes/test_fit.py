"""Fits equal their textbook form on raw activations; calibration is monotone and pays; controls are at chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.errors import FitError
from probes.measure.calibration import IDENTITY, platt
from probes.measure.metrics import auroc, log_loss
from probes.methods.fit import choose_setting, random_direction_auroc, random_label_auroc
from probes.methods.logistic import fit_affine
from probes.methods.table import Setting


def test_folding_the_scaler_in_equals_the_pipeline_on_raw_activations(blobs):
    resid, labels = blobs
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-10, max_iter=5000))
    pipeline.fit(resid.astype(np.float64), labels)
    ours = fit_affine(resid, labels, c=0.1)
    assert ours.weight.dtype == np.float32
    np.testing.assert_allclose(ours.logit(resid), pipeline.decision_function(resid.astype(np.float64)), atol=1e-4)


def test_fits_are_deterministic(blobs):
    resid, labels = blobs
    first, second = fit_affine(resid, labels, c=0.1), fit_affine(resid, labels, c=0.1)
    assert (first.weight == second.weight).all()
    assert first.bias == second.bias


def test_a_coordinate_that_never_varies_gets_no_weight(blobs):
    resid, labels = blobs
    resid = np.concatenate([resid, np.full((len(resid), 1), 7.0, dtype=np.float32)], axis=1)
    assert fit_affine(resid, labels, c=0.1).weight[-1] == 0.0


def test_activations_that_do_not_vary_are_refused():
    with pytest.raises(FitError, match="same activations"):
        fit_affine(np.ones((10, 3), dtype=np.float32), np.arange(10) % 2, c=1.0)


def test_one_class_is_refused(blobs):
    resid, labels = blobs
    with pytest.raises(FitError, match="one class"):
        fit_affine(resid, np.zeros_like(labels), c=1.0)


def test_a_fit_that_does_not_converge_is_refused(blobs):
    resid, labels = blobs
    with pytest.warns(UserWarning, match="failed to converge"), pytest.raises(FitError, match="smaller --C"):
        fit_affine(resid, labels, c=1e6, max_iter=2)


def test_cross_validation_prefers_shrinkage_where_there_is_only_noise():
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((120, 60)).astype(np.float32)
    labels = generator.integers(0, 2, 120)
    settings = [Setting(C=1e-4), Setting(C=1.0)]
    assert choose_setting([lambda: (noise, labels, np.arange(120) % 3)], settings) == settings[0]


def test_cross_validation_without_a_usable_fold_is_refused(blobs):
    resid, labels = blobs
    with pytest.raises(FitError, match="no fold with both classes"):
        choose_setting([lambda: (resid, labels, labels)], [Setting(C=0.1), Setting(C=1.0)])


def test_controls_are_near_chance_and_the_probe_is_not(blobs):
    resid, labels = blobs
    train, test = slice(0, 300), slice(300, None)
    probe = auroc(fit_affine(resid[train], labels[train], c=0.1).logit(resid[test]), labels[test])
    permuted = np.random.default_rng(0).permutation(labels[train])
    shuffled = random_label_auroc(resid[train], permuted, resid[test], labels[test], setting=Setting(C=0.1))
    assert probe > 0.75
    assert shuffled < probe - 0.1
    assert 0.5 <= random_direction_auroc(resid[test], labels[test], seed=0) < probe


def test_calibration_repairs_an_overconfident_probe_on_a_third_split():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 3000)
    logits = 6.0 * (generator.standard_normal(3000) + labels) - 1.0
    second, third = slice(0, 1500), slice(1500, None)
    calibration = platt(logits[second], labels[second])
    before = log_loss(IDENTITY.probability(logits[third]), labels[third])
    after = log_loss(calibration.probability(logits[third]), labels[third])
    assert calibration.scale > 0
    assert after < before


def test_calibration_of_an_honest_probe_changes_little():
    generator = np.random.default_rng(2)
    logits = 2 * generator.standard_normal(4000)
    labels = (generator.random(4000) < IDENTITY.probability(logits)).astype(int)
    scale, shift = platt(logits, labels)
    assert scale == pytest.approx(1.0, abs=0.1)
    assert shift == pytest.approx(0.0, abs=0.1)


def test_calibration_of_separated_classes_is_finite():
    logits = np.concatenate([np.full(50, -9.0), np.full(50, 9.0)])
    calibration = platt(logits, np.repeat([0, 1], 50))
    assert 0 < calibration.scale < 2
    assert calibration.probability(np.array([9.0]))[0] == pytest.approx(51 / 52, abs=1e-3)


def test_calibration_keeps_the_order(blobs):
    resid, labels = blobs
    logits = fit_affine(resid, labels, c=0.1).logit(resid)
    assert auroc(platt(logits, labels).probability(logits), labels) == pytest.approx(auroc(logits, labels))


def test_an_inverted_slope_is_refused():
    with pytest.raises(FitError, match=r"slope .* expected a positive one"):
        platt(np.linspace(-3, 3, 100), (np.arange(100) < 50).astype(int))


def test_calibration_texts_of_one_class_are_refused():
    with pytest.raises(FitError, match="one class only"):
        platt(np.arange(5.0), np.ones(5, dtype=int))
