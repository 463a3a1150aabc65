"""The placebo steps exactly as far as the rule it shadows, token by token and layer by layer, in another direction.

Where blocks hand the stream on unchanged, that is an identity: its steps and the rule's have the same lengths at every
layer, though the rule's own bound is never met by the placebo. So a controller is driven here without a model, one
layer after another on one stream. Tolerance: float32 roundings of the stream, for steps are differences of it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steering import Bounds, Constraint, Plan
from steering.controllers.random import random_direction
from steering.rows import RowSteering

BOUNDS = Bounds(upper=-1.0, space="logit")


def steps(lm, plans, resid, *, dtype=torch.float32):
    """The changes at each layer, (layers, rows, seq, hidden_size) float64, and the steering that made them."""
    steering = RowSteering(plans, hidden_size=lm.info.hidden_size, device=torch.device("cpu"), dtype=dtype)
    steering.begin(torch.arange(resid.shape[1]).expand(len(plans), -1))
    stream, found = resid.to(dtype), []
    for _, rule in sorted(steering.controllers().items()):
        after = rule(stream)
        found.append(after.double() - stream.double())
        stream = after
    steering.collect()
    return torch.stack(found), steering


@pytest.fixture
def resid(lm):
    torch.manual_seed(0)
    return (torch.randn(1, 50, lm.info.hidden_size) * 3).expand(2, -1, -1).clone()


def test_its_steps_are_as_long_as_the_slabs_at_every_layer(lm, probe, resid):
    plans = [Plan((Constraint(probe, BOUNDS, controller=name, seed=3),)) for name in ("slab", "random")]
    found, steering = steps(lm, plans, resid)
    slab, placebo = (found[:, row].norm(dim=-1) for row in (0, 1))
    assert (slab > 0).float().mean(dim=1).min() > 0.1
    assert torch.equal(slab > 0, placebo > 0)
    torch.testing.assert_close(placebo, slab, rtol=0, atol=2e-5)
    for index, layer in enumerate(steering.layers):
        unit = random_direction(lm.info.hidden_size, seed=3, layer=layer).double()
        along = (found[index, 1] @ unit).abs()
        torch.testing.assert_close(along, placebo[index], rtol=0, atol=2e-5)
    rule, sham = (steering.report(row).probes[probe.id] for row in (0, 1))
    assert sham.mean_dose < rule.mean_dose  # as a share of its own stream, which random steps make longer
    assert (rule.violations, rule.promised, sham.promised) == (0, True, False)
    assert sham.violations > 0


def test_several_bounds_held_together_have_their_placebo_too(lm, make_probe, resid):
    probes = [make_probe(lm, name=f"probe-{seed}", seed=seed) for seed in range(3)]
    plans = [Plan(tuple(Constraint(probe, BOUNDS, controller=name) for probe in probes)) for name in ("slab", "random")]
    found, _ = steps(lm, plans, resid)
    slab, placebo = (found[:, row].norm(dim=-1) for row in (0, 1))
    assert (slab[1:] > 0).any()
    torch.testing.assert_close(placebo, slab, rtol=0, atol=5e-5)


def test_where_bounds_meet_at_some_layers_only_its_steps_are_as_long_all_the_same(lm, make_probe, resid):
    one, other = make_probe(lm, name="one"), make_probe(lm, name="other", seed=5)
    plans = [
        Plan((Constraint(one, BOUNDS, controller=name), Constraint(other, BOUNDS, layers=(1, 3), controller=name)))
        for name in ("slab", "random")
    ]
    found, _ = steps(lm, plans, resid)
    slab, placebo = (found[:, row].norm(dim=-1) for row in (0, 1))
    torch.testing.assert_close(placebo, slab, rtol=0, atol=5e-5)


def test_it_does_not_feel_a_neighbour_that_is_steered_at_other_layers(lm, make_probe, resid):
    probes = [make_probe(lm, name=f"probe-{seed}", seed=seed) for seed in (1, 2)]
    whole = Plan((Constraint(probes[0], BOUNDS, controller="random", seed=3),))
    part = Plan((Constraint(probes[1], BOUNDS, layers=(2,), controller="random", seed=4),))
    together, _ = steps(lm, [whole, part], resid)
    alone, _ = steps(lm, [whole], resid[:1])
    assert torch.equal(together[:, 0], alone[:, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_a_coarse_dtype_its_steps_are_as_long_up_to_one_rounding_of_the_stream(lm, probe, resid, dtype):
    plans = [Plan((Constraint(probe, BOUNDS, layers=(0,), controller=name),)) for name in ("slab", "random")]
    found, _ = steps(lm, plans, resid, dtype=dtype)
    slab, placebo = (found[0, row].norm(dim=-1) for row in (0, 1))
    assert (slab > 0).any()
    rounding = torch.finfo(dtype).eps * resid[0].double().norm(dim=-1)
    assert ((placebo - slab).abs() <= rounding).all()


def test_the_largest_seed_is_a_seed():
    assert float(random_direction(8, seed=2**63 - 1, layer=29).norm()) == pytest.approx(1.0)


def test_asked_about_its_own_stream_it_would_go_further(lm, probe, resid):
    """The control: with one read-out at all layers the slab moves once, and so does the placebo by its shadow."""
    same = replace(probe, layers=dict.fromkeys(probe.layers, probe.at(0)))

    def placebo(*layers):
        return [Plan((Constraint(same, BOUNDS, layers=layers, controller="random", seed=3),)), None]

    once, _ = steps(lm, placebo(*same.layers), resid)
    assert once[0].any()
    assert float(once[1:].norm(dim=-1).max()) < 1e-4
    stream = resid
    for layer in same.layers:  # one layer at a time, without memory of those before
        alone, _ = steps(lm, placebo(layer), stream)
        assert float(alone.norm(dim=-1).max()) > 1.0
        stream = stream + alone[0].float()


def test_directions_differ_between_layers_and_seeds_and_are_the_same_again():
    unit = random_direction(64, seed=7, layer=2)
    assert float(unit.norm()) == pytest.approx(1.0)
    assert torch.equal(unit, random_direction(64, seed=7, layer=2))
    for other in (random_direction(64, seed=7, layer=3), random_direction(64, seed=8, layer=2)):
        assert abs(float(unit @ other)) < 0.6
