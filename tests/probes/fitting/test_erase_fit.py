"""LEACE: its theorems on the texts of the fit, and the general formula it is the rank-one case of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orth, sqrtm
from sklearn.linear_model import LogisticRegression

from probes.errors import FitError
from probes.fitting.erase import fit_erase


def erased(side, found):
    reader, writer, center = (found[f"erase.{part}"].astype(float) for part in ("reader", "writer", "center"))
    return side - (side @ reader - center)[:, None] * writer


@pytest.fixture
def labelled(classes):
    """All activations in float64 and their labels, (500,)."""
    return np.concatenate(classes).astype(float), np.repeat([0, 1], [300, 200])


def test_class_means_become_equal_and_no_covariance_with_the_label_is_left(classes, labelled):
    resid, labels = labelled
    after, scale = erased(resid, fit_erase(*classes)), resid.std(axis=0)
    apart = after[labels == 1].mean(axis=0) - after[labels == 0].mean(axis=0)
    np.testing.assert_allclose(apart / scale, 0.0, atol=1e-5)
    np.testing.assert_allclose((after / scale).T @ (labels - labels.mean()) / len(labels), 0.0, atol=1e-5)
    np.testing.assert_allclose(after.mean(axis=0) / scale, resid.mean(axis=0) / scale, atol=1e-5)


def test_no_logistic_regression_beats_always_saying_the_commoner_class(classes, labelled):
    resid, labels = labelled
    scaled = resid / resid.std(axis=0)
    assert LogisticRegression(C=100.0, tol=1e-8).fit(scaled, labels).score(scaled, labels) > 0.8
    after = erased(resid, fit_erase(*classes)) / resid.std(axis=0)
    blind = LogisticRegression(C=100.0, tol=1e-8).fit(after, labels)
    assert np.abs(blind.coef_).max() < 1e-3
    assert blind.score(after, labels) == pytest.approx(0.6)


def test_it_is_the_general_formula_for_one_label_column(classes, labelled):
    resid, labels = labelled
    mean = resid.mean(axis=0)
    sigma = np.cov(resid, rowvar=False, bias=True)
    cross = ((resid - mean).T @ (labels - labels.mean()) / len(labels))[:, None]
    whiten = np.linalg.inv(np.real(sqrtm(sigma)))
    basis = orth(whiten @ cross)
    judge = resid - (resid - mean) @ (np.linalg.inv(whiten) @ basis @ basis.T @ whiten).T
    scale = resid.std(axis=0)
    np.testing.assert_allclose(erased(resid, fit_erase(*classes)) / scale, judge / scale, atol=1e-4)


def test_it_is_a_projection_along_the_difference_of_means(classes, labelled):
    resid, _ = labelled
    found = fit_erase(*classes)
    once = erased(resid, found)
    np.testing.assert_allclose(erased(once, found), once, rtol=1e-4, atol=1e-3)
    assert found["erase.reader"] @ found["erase.writer"] == pytest.approx(1.0, abs=1e-5)
    apart = classes[1].mean(axis=0) - classes[0].mean(axis=0)
    cosine = apart @ found["erase.writer"] / np.linalg.norm(apart) / np.linalg.norm(found["erase.writer"])
    assert cosine == pytest.approx(1.0, abs=1e-5)


def test_no_other_affine_erasure_changes_the_activations_less_in_any_quadratic_norm(classes, labelled):
    resid, _ = labelled
    found = fit_erase(*classes)
    mean, writer = resid.mean(axis=0), found["erase.writer"].astype(float)
    random = np.random.default_rng(0)
    norms = [np.eye(6), np.diag(1 / resid.var(axis=0)), *(a @ a.T for a in random.standard_normal((5, 6, 6)))]

    def cost(after, norm):
        return np.einsum("ni,ij,nj->n", after - resid, norm, after - resid).mean()

    least = erased(resid, found)
    for _ in range(50):
        reader = found["erase.reader"] + random.standard_normal(6) * np.abs(found["erase.reader"])
        reader = reader / (reader @ writer)  # erases as well: it still takes the whole difference of means out
        other = resid - ((resid - mean) @ reader)[:, None] * writer
        apart = other[:300].mean(axis=0) - other[300:].mean(axis=0)
        np.testing.assert_allclose(apart / resid.std(axis=0), 0.0, atol=1e-4)
        assert all(cost(least, norm) <= cost(other, norm) * (1 + 1e-6) for norm in norms)


def test_the_reader_has_variance_one_over_all_texts(classes, labelled):
    assert np.var(labelled[0] @ fit_erase(*classes)["erase.reader"]) == pytest.approx(1.0, rel=1e-4)


def test_axes_along_which_nothing_varies_are_left_alone_also_with_fewer_texts_than_coordinates():
    random = np.random.default_rng(4)
    negative, positive = random.standard_normal((5, 20)), random.standard_normal((6, 20)) + 1
    negative[:, 3], positive[:, 3] = 7.0, 7.0
    found = fit_erase(negative.astype(np.float32), positive.astype(np.float32))
    assert found["erase.reader"][3] == pytest.approx(0.0, abs=1e-6)
    assert found["erase.writer"][3] == pytest.approx(0.0, abs=1e-6)
    apart = erased(negative, found).mean(axis=0) - erased(positive, found).mean(axis=0)
    np.testing.assert_allclose(apart, 0.0, atol=1e-5)


def test_one_text_of_a_class_is_too_few():
    with pytest.raises(FitError, match="at least 2"):
        fit_erase(np.ones((1, 3), np.float32), np.zeros((9, 3), np.float32))
