"""Each controller is its formula: written out in numpy float64, one token at a time, and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steering.controllers.ablate import Ablate
from steering.controllers.additive import Additive
from steering.controllers.affine import Affine, MeanMatch
from steering.controllers.base import Settings
from steering.controllers.erase import Erase
from steering.controllers.lqr import Lqr
from steering.controllers.reading import ReadingVector
from steering.controllers.setpoint import Setpoint
from steering.controllers.transport import Transport
from steering.errors import UnsupportedSteering

LAYER = 1
NEEDS = {
    Additive: "mean",
    Ablate: "mean",
    Affine: "affine",
    MeanMatch: "mean",
    Erase: "erase",
    Lqr: "lqr",
    ReadingVector: "reading",
    Setpoint: "mean",
    Transport: "transport",
}
CONTROLLERS = list(NEEDS)


def part(probe, name, layer=LAYER):
    return probe.at(layer).fitted[name].double().numpy()


def apart(probe, layer=LAYER):
    """The mean of the class steered toward minus the other's."""
    difference = part(probe, "mean.positive", layer) - part(probe, "mean.negative", layer)
    return difference if probe.toward == "positive" else -difference


def target_mean(probe, layer=LAYER):
    return part(probe, f"mean.{probe.toward}", layer)


def unit(vector):
    return vector / np.sqrt((vector**2).sum())


def additive(probe, x, s):
    return s.coefficient * apart(probe)


def ablate(probe, x, s):
    u = unit(apart(probe))
    return -np.outer(u, u) @ x


def affine(probe, x, s):
    return part(probe, "affine.matrix") @ x + part(probe, "affine.shift") - x


def mean_match(probe, x, s):
    return apart(probe)


def erase(probe, x, s):
    return -part(probe, "erase.writer") * (part(probe, "erase.reader") @ x - part(probe, "erase.center"))


def lqr(probe, x, s):
    v = unit(apart(probe))
    return (s.coefficient * v @ target_mean(probe) - v @ x) * part(probe, "lqr.gain")


def reading(probe, x, s):
    v = part(probe, "reading.vector")
    return s.coefficient * v * (np.sign(v @ x - part(probe, "reading.center")) if s.piecewise else 1.0)


def setpoint(probe, x, s):
    v = unit(apart(probe))
    error = s.coefficient * v @ target_mean(probe) - v @ x
    return (s.gains[0] + s.gains[1]) * error * v


def transport(probe, x, s):
    return part(probe, "transport.scale") * x + part(probe, "transport.shift") - x


FORMULAS = dict(zip(CONTROLLERS, [additive, ablate, affine, mean_match, erase, lqr, reading, setpoint, transport]))  # noqa: B905
VARIANTS = [Settings(), Settings(coefficient=-2.5, gains=(0.5, 0.25, 3.0), piecewise=True)]


@pytest.mark.parametrize("toward", ["negative", "positive"])
@pytest.mark.parametrize("settings", VARIANTS, ids=["default", "chosen"])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_it_is_its_formula_at_every_token(controller, settings, toward, carrying, resid):
    probe = carrying(toward=toward)
    found = controller.of(probe, [LAYER], settings).delta(resid, layer=LAYER, carry={})
    assert found.shape == resid.shape
    assert found.dtype == torch.float32
    for row in range(2):
        for token in range(5):
            wanted = FORMULAS[controller](probe, resid[row, token].double().numpy(), settings)
            np.testing.assert_allclose(found[row, token].numpy(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_rows_and_tokens_do_not_see_each_other(controller, carrying, resid):
    rule = controller.of(carrying(), [0, LAYER], Settings(gains=(1.0, 0.5, 0.25)))
    carry, alone = {}, {}
    for layer in (0, LAYER):
        whole = rule.delta(resid, layer=layer, carry=carry)
        own = rule.delta(resid[1:, 2:4], layer=layer, carry=alone)
        torch.testing.assert_close(own, whole[1:, 2:4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("piecewise", [False, True])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_it_follows_the_device_and_never_waits_for_it(controller, piecewise, carrying):
    rule = controller.of(carrying(), [0, LAYER], Settings(piecewise=piecewise))
    carry = {}
    for layer in (0, LAYER):  # a meta tensor has no data: .item(), bool() and mixing it with the host raise
        found = rule.delta(torch.empty(3, 2, 32, device="meta"), layer=layer, carry=carry)
        assert found.device.type == "meta"
        assert found.shape == (3, 2, 32)
    back = rule.delta(torch.zeros(3, 2, 32), layer=LAYER, carry={})
    assert bool(torch.isfinite(back).all())


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_it_computes_in_float32_at_least_and_leaves_its_input_alone(controller, carrying, resid):
    rule = controller.of(carrying(), [LAYER], Settings())
    for dtype, wide in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        given = resid.to(dtype)
        kept = given.clone()
        found = rule.delta(given, layer=LAYER, carry={})
        assert found.dtype == wide
        assert torch.equal(given, kept)
        exact = rule.delta(given.double(), layer=LAYER, carry={})
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_each_layer_has_its_own_statistics(controller, carrying, resid):
    rule = controller.of(carrying(), [0, LAYER], Settings())
    first, second = (rule.delta(resid, layer=layer, carry={}) for layer in (0, LAYER))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_probe_without_its_statistics_is_refused_by_name(controller, carrying):
    everything = set(NEEDS.values()) | {"contrast"}
    lacking = carrying(only=tuple(everything - {NEEDS[controller]}))
    with pytest.raises(UnsupportedSteering, match=f"carries no '{NEEDS[controller]}' statistics at layer {LAYER}"):
        controller.of(lacking, [LAYER], Settings())


@pytest.mark.parametrize("controller", [Setpoint, Lqr, Ablate])
def test_equal_class_means_point_nowhere_and_are_refused(controller, carrying):
    same = {"mean.negative": torch.ones(32), "mean.positive": torch.ones(32)}
    with pytest.raises(UnsupportedSteering, match="points nowhere"):
        controller.of(carrying(**same), [LAYER], Settings())


@pytest.mark.parametrize("toward", ["negative", "positive"])
def test_every_source_of_a_vector_points_to_the_allowed_side(toward, carrying, resid):
    probe = carrying(toward=toward)
    fitted = probe.at(LAYER)
    sign = 1 if toward == "positive" else -1
    wanted = {
        "mean": torch.from_numpy(apart(probe)).float(),
        "contrast": fitted.fitted["contrast.vector"],
        "weight": sign * fitted.resid_norm * fitted.weight / fitted.weight.norm(),
    }
    for source, vector in wanted.items():
        added = Additive.of(probe, [LAYER], Settings(coefficient=2.0, source=source))
        torch.testing.assert_close(added.delta(resid, layer=LAYER, carry={})[1, 3], 2 * vector)
        left = resid + Ablate.of(probe, [LAYER], Settings(source=source)).delta(resid, layer=LAYER, carry={})
        torch.testing.assert_close((left @ vector) / vector.norm(), torch.zeros(2, 5), rtol=0, atol=1e-5)
    rise = wanted["weight"] @ fitted.weight
    assert float(rise) * sign > 0


def test_ablation_is_idempotent_and_changes_nothing_across_the_direction(carrying, resid):
    probe = carrying()
    rule = Ablate.of(probe, [LAYER], Settings())
    once = resid + rule.delta(resid, layer=LAYER, carry={})
    torch.testing.assert_close(rule.delta(once, layer=LAYER, carry={}), torch.zeros_like(once), rtol=0, atol=1e-5)
    assert bool((once.norm(dim=-1) <= resid.norm(dim=-1) + 1e-5).all())
    v = torch.from_numpy(unit(apart(probe))).float()
    torch.testing.assert_close(once + (resid @ v).unsqueeze(-1) * v, resid, rtol=0, atol=1e-5)


def test_piecewise_turns_at_the_centre_and_not_at_zero(carrying, resid):
    probe = carrying(**{"reading.center": torch.tensor(4.0)})
    v = probe.group("reading", LAYER)["vector"]
    rule = ReadingVector.of(probe, [LAYER], Settings(coefficient=2.0, piecewise=True))
    reads = torch.tensor([-9.0, 0.0, 3.0, 5.0, 9.0])
    tokens = resid[:1] + (reads - resid[:1] @ v).unsqueeze(-1) * v
    moved = rule.delta(tokens, layer=LAYER, carry={}) @ v
    torch.testing.assert_close(moved, torch.tensor([[-2.0, -2.0, -2.0, 2.0, 2.0]]))


def test_mean_matching_is_additive_with_coefficient_one(carrying, resid):
    probe = carrying()
    plain = Additive.of(probe, [LAYER], Settings()).delta(resid, layer=LAYER, carry={})
    settings = Settings(coefficient=9.0, source="weight")  # of no use to it
    assert torch.equal(MeanMatch.of(probe, [LAYER], settings).delta(resid, layer=LAYER, carry={}), plain)


def test_with_the_gain_v_the_regulator_is_the_setpoint_controller(carrying, resid):
    probe = carrying()
    v = torch.from_numpy(unit(apart(probe))).float()
    probe = carrying(**{"lqr.gain": 0.6 * v})
    feedback = Lqr.of(probe, [LAYER], Settings()).delta(resid, layer=LAYER, carry={})
    held = Setpoint.of(probe, [LAYER], Settings(gains=(0.6, 0.0, 0.0))).delta(resid, layer=LAYER, carry={})
    torch.testing.assert_close(feedback, held, rtol=1e-5, atol=1e-5)
