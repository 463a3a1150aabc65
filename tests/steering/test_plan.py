"""A plan is checked before any tensor is made: each value out of range is refused and named."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from steering import Bounds, Constraint, Plan, Probe
from steering.controllers.base import Settings
from steering.errors import InvalidBounds, InvalidRequest, UnknownProbe, UnsupportedSteering

UPPER = Bounds(upper=0.1)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"generation": (-1, None)}, "generation"),
        ({"generation": (3, 2)}, "generation"),
        ({"generation": (2, 2), "prompt": "none"}, "generation"),
        ({"strength": 0.0}, "strength"),
        ({"strength": 1.1}, "strength"),
        ({"strength": math.nan}, "strength"),
        ({"max_dose": 0.0}, "max_dose"),
        ({"max_dose": -1.0}, "max_dose"),
        ({"max_dose": math.inf}, "max_dose"),
        ({"max_dose": math.nan}, "max_dose"),
        ({"layers": ()}, "layers"),
        ({"layers": (1, 1)}, "layers"),
    ],
)
def test_a_value_out_of_range_is_refused_and_named(probe, changes, param):
    with pytest.raises(InvalidRequest) as refused:
        Constraint(probe, UPPER, **changes)
    assert refused.value.param == param


def test_a_layer_without_a_read_out_is_refused_with_those_there_are(lm, make_probe):
    with pytest.raises(UnknownProbe, match="layer 1; it has layers 0, 2-3"):
        Constraint(make_probe(lm, layers=[0, 2, 3]), UPPER, layers=(0, 1))


def test_layers_default_to_the_probes_own_and_are_put_in_order(lm, make_probe, probe):
    assert Constraint(make_probe(lm, layers=[3, 1]), UPPER).at_layers == (1, 3)
    assert Constraint(probe, UPPER, layers=(2, 0)).at_layers == (0, 2)


def test_only_an_unweakened_slab_promises(probe):
    assert Constraint(probe, UPPER).promised
    assert not Constraint(probe, UPPER, strength=0.9).promised
    assert not Constraint(probe, UPPER, controller="random").promised


def test_probability_bounds_differ_by_layer_as_the_calibrations_do(probe):
    constraint = Constraint(probe, Bounds(lower=0.2, upper=0.8))
    for layer in constraint.at_layers:
        scale, shift = probe.at(layer).calibration
        low, high = constraint.interval(layer)
        assert 1 / (1 + math.exp(-(scale * low + shift))) == pytest.approx(0.2)
        assert 1 / (1 + math.exp(-(scale * high + shift))) == pytest.approx(0.8)


def test_a_plan_needs_a_constraint_and_each_probe_once(lm, make_probe):
    probe = make_probe(lm)
    with pytest.raises(InvalidRequest, match="without constraints"):
        Plan(())
    with pytest.raises(InvalidRequest, match="twice"):
        Plan((Constraint(probe, UPPER, layers=(0,)), Constraint(probe, UPPER, layers=(1,))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_slab_narrower_than_the_dtype_can_hold_is_refused_at_admission(probe, dtype):
    needed = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.5}[dtype]
    Constraint(probe, Bounds(lower=0.0, upper=needed, space="logit")).check_representable(dtype)
    narrow = Bounds(lower=0.0, upper=needed / 100, space="logit")
    with pytest.raises(InvalidBounds, match="logits apart"):
        Constraint(probe, narrow).check_representable(dtype)
    Constraint(probe, narrow, strength=0.5).check_representable(dtype)  # promises nothing, so nothing to refuse
    Constraint(probe, Bounds(upper=0.0, space="logit")).check_representable(dtype)


def opposed(probe: Probe) -> Probe:
    """The same read-outs with the sign turned: high where the other is low."""
    layers = {at: replace(fitted, weight=-fitted.weight, bias=-fitted.bias) for at, fitted in probe.layers.items()}
    return Probe(probe.manifest.model_copy(update={"name": "opposed"}), layers)


def test_constraints_that_meet_at_a_layer_keep_their_bounds_where_they_can_be_met(lm, make_probe):
    one, other = make_probe(lm, name="one"), make_probe(lm, name="other", seed=1)
    plan = Plan((Constraint(one, UPPER, layers=(0, 1)), Constraint(other, UPPER, layers=(1, 2))))
    assert [slot for slot, _ in plan.at(1)] == [0, 1]
    assert plan.interval(1, 1) == plan.constraints[1].interval(1)
    assert plan.promises(0)
    assert plan.promises(1)


def test_bounds_that_contradict_one_another_are_refused_with_the_layer_and_the_way_out(probe):
    with pytest.raises(InvalidBounds, match=r"layer 0.*toxicity@1 and opposed@1 contradict.*least_squares"):
        Plan((Constraint(probe, UPPER), Constraint(opposed(probe), UPPER)))


def test_by_least_squares_contradicting_bounds_meet_and_promise_nothing(probe):
    bounds = Bounds(upper=-1.0, space="logit")
    plan = Plan((Constraint(probe, bounds), Constraint(opposed(probe), bounds)), on_infeasible="least_squares")
    assert plan.gave_way(0, 0)
    assert not plan.promises(0)
    assert plan.interval(0, 0)[1] == pytest.approx(0.0, abs=1e-4)  # half way between -1 and 1


def test_a_weakened_neighbour_takes_the_promise_away_where_they_meet(lm, make_probe):
    one, other = make_probe(lm, name="one"), make_probe(lm, name="other", seed=1)
    plan = Plan((Constraint(one, UPPER, layers=(0, 1)), Constraint(other, UPPER, layers=(1,), strength=0.5)))
    assert not plan.promises(0)
    assert not plan.promises(1)


def test_slab_and_placebo_do_not_meet_at_a_layer(lm, make_probe):
    one, other = make_probe(lm, name="one"), make_probe(lm, name="other", seed=1)
    with pytest.raises(UnsupportedSteering, match="disjoint layers"):
        Plan((Constraint(one, UPPER), Constraint(other, UPPER, controller="random")))


def test_a_constraint_that_names_no_metric_takes_that_of_its_probe(probe):
    assert Constraint(probe, Bounds(upper=0.2)).metric == "euclidean"
    default = probe.manifest.default.model_copy(update={"metric": "whitened"})
    whitened = Probe(probe.manifest.model_copy(update={"default": default}), probe.layers)
    assert Constraint(whitened, Bounds(upper=0.2), metric="euclidean").metric == "euclidean"
    assert Constraint(whitened, controller="additive", settings=Settings(source="weight")).metric == "euclidean"
    with pytest.raises(UnsupportedSteering, match="carries no 'metric'"):
        Constraint(whitened, Bounds(upper=0.2))
