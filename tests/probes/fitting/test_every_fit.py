"""What all fits of two classes have in common: names, dtypes, determinism, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import FitError
from probes.fitting.affine import fit_affine_map
from probes.fitting.contrast import fit_contrast
from probes.fitting.erase import fit_erase
from probes.fitting.means import fit_means
from probes.fitting.reading import fit_reading
from probes.fitting.transport import fit_transport
from steering.fitted import GROUPS, check_fitted

FITS = {
    "mean": fit_means,
    "contrast": fit_contrast,
    "reading": fit_reading,
    "transport": fit_transport,
    "affine": fit_affine_map,
    "erase": fit_erase,
}


@pytest.fixture(params=sorted(FITS))
def group(request):
    return request.param


@pytest.mark.parametrize("toward", ["negative", "positive"])
def test_a_fit_leaves_the_parts_of_its_group_as_an_artefact_holds_them(group, toward, classes):
    found = FITS[group](*classes, toward=toward)
    assert found.keys() == {f"{group}.{part}" for part in GROUPS[group]}
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in found.values())
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    check_fitted(tensors, hidden_size=6, where="here")


def test_a_fit_is_deterministic_and_leaves_its_input_alone(group, classes):
    kept = [side.copy() for side in classes]
    first, second = (FITS[group](*classes, toward="positive") for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(np.array_equal(*both) for both in zip(kept, classes, strict=True))


def test_naming_the_classes_the_other_way_round_changes_nothing_but_the_names(group, classes):
    one = FITS[group](*classes, toward="positive")
    other = FITS[group](*classes[::-1], toward="negative")
    if group == "mean":
        assert np.array_equal(one["mean.negative"], other["mean.positive"])
    elif group == "erase":  # only reader and writer together have a sign
        np.testing.assert_allclose(
            np.outer(one["erase.writer"], one["erase.reader"]),
            np.outer(other["erase.writer"], other["erase.reader"]),
            rtol=1e-4,
            atol=1e-6,
        )
    elif group != "reading":  # which random texts make a pair depends on the order
        for name, array in one.items():
            np.testing.assert_allclose(other[name], array, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("negative", "positive", "reason"),
    [
        (np.zeros((0, 3)), np.ones((5, 3)), "negative class has 0 texts"),
        (np.ones((5, 3)), np.zeros((0, 3)), "positive class has 0 texts"),
        (np.ones((5, 3)), np.zeros((5, 4)), "one hidden size"),
        (np.ones(5), np.zeros(5), r"expected \(texts, hidden_size\)"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "negative class hold NaN"),
        (np.zeros((5, 3)), np.full((5, 3), np.inf), "positive class hold NaN or infinity"),
    ],
)
def test_what_is_no_two_classes_of_numbers_is_refused_with_the_way_out(group, negative, positive, reason):
    with pytest.raises(FitError, match=reason):
        FITS[group](negative.astype(np.float32), positive.astype(np.float32), toward="positive")


@pytest.mark.parametrize("fit", [fit_erase, fit_reading])
def test_classes_that_do_not_differ_have_no_direction(fit):
    same = np.eye(4, 3, dtype=np.float32)
    with pytest.raises(FitError, match=r"do not differ|equal means|same activations"):
        fit(same, same, toward="positive")


def test_statistics_outside_float32_are_refused_not_stored_as_infinity():
    source = np.array([[0.0], [1e-30], [2e-30]], dtype=np.float32)
    target = np.array([[0.0], [1e38], [2e38]], dtype=np.float32)
    with pytest.raises(FitError, match=r"affine\.matrix leaves the range of float32"):
        fit_affine_map(source, target, toward="positive")
