"""A plan is checked before any tensor is made: each value out of range is refused and named."""

from __future__ import annotations

import math

import pytest
import torch

from steering import Bounds, Constraint, Plan
from steering.errors import InvalidBounds, InvalidRequest, UnknownProbe, UnsupportedSteering
from steering.plan import deepest_layer

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
    assert deepest_layer([None, Plan((Constraint(probe, UPPER, layers=(2, 0)),))]) == 2
    assert deepest_layer([None]) == -1


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


def test_two_constraints_at_one_layer_are_refused_rather_than_applied_in_turn(lm, make_probe):
    one, other = make_probe(lm, name="one"), make_probe(lm, name="other", seed=1)
    with pytest.raises(UnsupportedSteering, match="joint projection"):
        Plan((Constraint(one, UPPER, layers=(0, 1)), Constraint(other, UPPER, layers=(1, 2))))
    assert len(Plan((Constraint(one, UPPER, layers=(0, 2)), Constraint(other, UPPER, layers=(1, 3)))).constraints) == 2
