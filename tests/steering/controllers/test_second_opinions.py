"""The same formulas as other people have written them, where their packages are installed.

pip install --no-deps -r tests/second-opinions.txt. Nothing of theirs is copied; their answers are compared with ours.
"""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest
import torch

from probes.fitting.affine import fit_affine_map
from probes.fitting.contrast import fit_contrast
from probes.fitting.erase import fit_erase
from probes.fitting.reading import fit_reading
from steering import capture, steer
from steering.controllers.ablate import Ablate
from steering.controllers.additive import Additive
from steering.controllers.base import Settings
from steering.controllers.capping import cap
from steering.controllers.directions import PerLayer
from steering.controllers.erase import Erase

PAIRS = [("calm seas today", "rough seas today"), ("a kind word", "a harsh word"), ("they sing well", "they sing ill")]
"""(negative, positive), each pair of one length in tokens or not."""
LAYERS = [0, 1, 2]


def second_opinion(name: str) -> ModuleType:
    with warnings.catch_warnings():  # theirs, at import: torch.jit.script and the like
        warnings.simplefilter("ignore")
        found: ModuleType = pytest.importorskip(
            name, reason=f"{name} is not installed: pip install --no-deps -r tests/second-opinions.txt"
        )
    return found


@pytest.fixture
def concept_erasure() -> ModuleType:
    return second_opinion("concept_erasure")


@pytest.fixture
def steering_vectors() -> ModuleType:
    return second_opinion("steering_vectors")


@pytest.fixture
def interp_engine() -> ModuleType:
    return second_opinion("interp_engine")


@pytest.fixture
def repeng(monkeypatch) -> ModuleType:
    # Its class bodies name np.float_ in annotations, which numpy 2 no longer has; nothing it computes needs it.
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    return second_opinion("repeng")


@pytest.fixture
def two_classes() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    mixing = np.eye(8) + 0.3 * random.standard_normal((2, 8, 8))
    negative, positive = random.standard_normal((200, 8)) @ mixing[0], random.standard_normal((120, 8)) @ mixing[1] + 1
    return negative.astype(np.float32), positive.astype(np.float32)


def last_tokens(lm, texts):
    """{layer: (texts, hidden_size)}, each text alone."""
    rows = {layer: [] for layer in LAYERS}
    for text in texts:
        with torch.no_grad(), capture(lm.model, LAYERS) as seen:
            lm.model(torch.tensor([lm.tokenizer(text)["input_ids"]]))
        for layer in LAYERS:
            rows[layer].append(seen[layer][0, -1].numpy())
    return {layer: np.stack(found) for layer, found in rows.items()}


@pytest.fixture(scope="module")
def paired(lm):
    """Per layer the last-token residuals of the negative and of the positive texts."""
    sides = [last_tokens(lm, texts) for texts in zip(*PAIRS, strict=True)]
    return {layer: tuple(side[layer] for side in sides) for layer in LAYERS}


def test_erasing_is_that_of_its_authors(concept_erasure, two_classes):
    negative, positive = two_classes
    resid = torch.from_numpy(np.concatenate([negative, positive])).double()
    labels = torch.tensor([0.0] * len(negative) + [1.0] * len(positive), dtype=torch.float64)
    plain = {"shrinkage": False, "constrain_cov_trace": False, "svd_tol": 1e-9}
    theirs = concept_erasure.LeaceEraser.fit(resid, labels, **plain)(resid)
    found = {name: torch.from_numpy(array) for name, array in fit_erase(negative, positive).items()}
    ours = Erase(*(PerLayer({0: found[f"erase.{part}"]}) for part in ("reader", "writer", "center")))
    torch.testing.assert_close(resid + ours.delta(resid, layer=0, carry={}), theirs, rtol=0, atol=1e-5)


def test_the_affine_map_is_their_optimal_transport_map_between_normals(concept_erasure, two_classes):
    ot_map = second_opinion("concept_erasure.optimal_transport").ot_map
    source, target = (torch.from_numpy(np.cov(side, rowvar=False, bias=True)) for side in two_classes)
    ours = fit_affine_map(*two_classes, toward="positive")["affine.matrix"]
    np.testing.assert_allclose(ours, ot_map(source, target).numpy(), atol=1e-5)


def test_contrast_vectors_are_the_steering_vectors_trained_on_the_same_pairs(steering_vectors, lm, paired):
    samples = [(positive, negative) for negative, positive in PAIRS]
    theirs = steering_vectors.train_steering_vector(lm.model, lm.tokenizer, samples, layers=LAYERS)
    for layer in LAYERS:
        ours = fit_contrast(*paired[layer], toward="positive")["contrast.vector"]
        np.testing.assert_allclose(ours, theirs.layer_activations[layer].numpy(), atol=1e-5)


def test_reading_vectors_are_their_principal_component(steering_vectors, paired):
    for negative, positive in paired.values():
        theirs = steering_vectors.pca_aggregator()(torch.from_numpy(positive), torch.from_numpy(negative))
        ours = fit_reading(negative, positive, toward="positive", paired=True)["reading.vector"]
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["additive", "ablate"])
def test_a_steered_model_gives_the_logits_of_theirs(kind, steering_vectors, lm, carrying):
    probe = carrying(toward="positive", only=("mean",))
    difference = probe.group("mean", 1)["positive"] - probe.group("mean", 1)["negative"]
    vector = steering_vectors.SteeringVector({1: difference}, layer_type="decoder_block")
    ids = torch.tensor([lm.tokenizer(PAIRS[0][0])["input_ids"]])
    with torch.no_grad():
        plain = lm.model(ids).logits
        if kind == "additive":
            rule = Additive.of(probe, [1], Settings(coefficient=0.7))
            operator = steering_vectors.addition_operator()
        else:
            rule, operator = Ablate.of(probe, [1], Settings()), steering_vectors.ablation_operator()
        with vector.apply(lm.model, multiplier=0.7, operator=operator):
            theirs = lm.model(ids).logits
        with steer(lm.model, {1: lambda resid: resid + rule.delta(resid, layer=1, carry={})}):
            ours = lm.model(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=0.01)


def test_reading_vectors_lie_on_the_axis_of_control_vectors_trained_on_the_same_pairs(repeng, lm, paired):
    dataset = [repeng.DatasetEntry(positive=positive, negative=negative) for negative, positive in PAIRS]
    options = {"method": "pca_center", "batch_size": 1, "hidden_layers": LAYERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = repeng.ControlVector.train(lm.model, lm.tokenizer, dataset, **options)
    for layer in LAYERS:
        ours = fit_reading(*paired[layer], toward="positive", paired=True)["reading.vector"]
        axis = theirs.directions[layer]  # signed by the majority of pairs, ours by the class means: these may differ
        np.testing.assert_allclose(ours, axis * np.sign(axis @ ours), atol=1e-4)


@pytest.mark.parametrize(("side", "bound"), [("lower", "minimum"), ("upper", "maximum")])
def test_capping_is_their_projection_cap(side, bound, interp_engine, resid):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2))
    limits = {"minimum": None, "maximum": None} | {bound: 0.5}
    theirs = resid + interp_engine.projection_cap_delta(resid, direction / direction.norm(), **limits)
    torch.testing.assert_close(cap(direction, 0.5, side)(resid), theirs, rtol=0, atol=2e-5)
    assert not torch.equal(theirs, resid)


def test_ablation_is_their_ablation(interp_engine, resid, carrying):
    probe = carrying()
    theirs = second_opinion("interp_engine.steer").ablate_delta(resid, probe.at(1).weight)
    ours = Ablate.of(probe, [1], Settings(source="weight")).delta(resid, layer=1, carry={})
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
