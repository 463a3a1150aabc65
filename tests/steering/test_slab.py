"""The projection's theorems, against the closed form in numpy float64; what rounding does to it: test_stored_value.py.

Residuals here are float64, so that the mathematics is seen and not the dtype; the probe's numbers are float32, hence
the tolerances of about 1e-6.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch._subclasses.fake_tensor import FakeTensorMode

from steering import project
from steering.errors import InvalidBounds
from steering.joint import joint_slabs, project_joint
from steering.slab import Slabs, slab

seeds = st.integers(0, 10_000)
numbers = st.floats(-20, 20, width=32)


def drawn(seed, *, rows=8, width=12):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(width, generator=generator) * (1 + 3 * torch.rand((), generator=generator))
    return weight, 5 * torch.randn(rows, width, generator=generator, dtype=torch.float64)


def closed_form(resid, weight, bias, low, high):
    x, w = resid.numpy(), weight.double().numpy()
    z = x @ w + bias
    return x + ((np.clip(z, low, high) - z) / (w @ w))[:, None] * w


def with_fields(slabs, **changes):
    return Slabs(**vars(slabs) | {name: torch.as_tensor(value) for name, value in changes.items()})


def test_by_hand_3_4_goes_to_3_1():
    moved = slab(torch.tensor([0.0, 2.0]), 0.0, high=2.0)(torch.tensor([3.0, 4.0]))
    assert moved[0] == 3.0
    assert moved[1] == pytest.approx(1.0, abs=1e-5)
    assert moved[1] <= 1.0


@settings(max_examples=100, deadline=None)
@given(seeds, numbers, numbers, st.floats(0.001, 20), st.sampled_from(["both", "low", "high"]))
def test_it_is_the_closed_form_and_lands_inside(seed, bias, start, extent, sides):
    low, high = (-math.inf if sides == "high" else start), (math.inf if sides == "low" else start + extent)
    weight, resid = drawn(seed)
    done = project(resid, slab(weight, bias, low=low, high=high))
    bias, low, high = (float(np.float32(value)) for value in (bias, low, high))  # as the slab holds them
    expected = closed_form(resid, weight, bias, low, high)
    np.testing.assert_allclose(done.resid.numpy(), expected, rtol=0, atol=1e-5)
    logits = done.resid.numpy() @ weight.double().numpy() + bias
    assert np.all((logits >= low - 1e-12) & (logits <= high + 1e-12))
    assert not done.violated.any()
    assert not done.capped.any()


@settings(max_examples=50, deadline=None)
@given(seeds, numbers)
def test_the_change_is_along_the_weight_and_no_feasible_point_is_nearer(seed, high):
    weight, resid = drawn(seed)
    delta = project(resid, slab(weight, 0.5, high=high)).resid - resid
    across = delta - (delta @ weight.double()).unsqueeze(-1) * weight.double() / weight.double().dot(weight.double())
    assert across.abs().max() < 1e-5
    generator = torch.Generator().manual_seed(seed)
    tries = resid + torch.randn(500, *resid.shape, generator=generator, dtype=torch.float64) * torch.rand(
        500, 1, 1, generator=generator, dtype=torch.float64
    ) * 2 * delta.norm(dim=-1).clamp_min(1.0).unsqueeze(-1)
    feasible = tries @ weight.double() + 0.5 <= high
    distance = (tries - resid).norm(dim=-1).where(feasible, math.inf).amin(0)
    assert bool((distance >= delta.norm(dim=-1) - 1e-5).all())


def test_a_general_purpose_solver_finds_the_same_point():
    weight, resid = drawn(3, rows=3, width=5)
    w = weight.double().numpy()
    found = project(resid, slab(weight, 0.5, low=1.0, high=2.0)).resid.numpy()
    for x, ours in zip(resid.numpy(), found, strict=True):
        inside = [
            {"type": "ineq", "fun": lambda y: 2.0 - (y @ w + 0.5)},
            {"type": "ineq", "fun": lambda y: y @ w + 0.5 - 1.0},
        ]
        solved = minimize(
            lambda y, x=x: ((y - x) ** 2).sum(), x, constraints=inside, method="SLSQP", options={"ftol": 1e-14}
        )
        np.testing.assert_allclose(ours, solved.x, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seeds, numbers, st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
def test_it_is_idempotent_and_bit_exact_inside(seed, low, dtype):
    weight, resid = drawn(seed)
    rule = slab(weight, 0.5, low=low, high=low + 20)
    once = project(resid.to(dtype), rule)
    twice = project(once.resid, rule)
    assert torch.equal(twice.resid, once.resid)
    assert not twice.edited.any()
    assert torch.equal(once.resid[~once.edited], resid.to(dtype)[~once.edited])
    assert bool((once.dose[~once.edited] == 0).all())


@settings(max_examples=50, deadline=None)
@given(seeds, st.floats(0.01, 100), st.booleans(), numbers, st.floats(0, 10))
def test_only_the_region_counts_not_how_its_probe_is_scaled_or_which_way_it_points(seed, factor, flip, low, extent):
    weight, resid = drawn(seed)
    plain = project(resid, slab(weight, 0.5, low=low, high=low + extent)).resid
    sign = -1 if flip else 1
    bounds = sorted((sign * factor * low, sign * factor * (low + extent)))
    scaled = project(resid, slab(sign * factor * weight, sign * factor * 0.5, low=bounds[0], high=bounds[1])).resid
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-5)


def test_strength_scales_the_change_and_the_rest_stays_a_counted_violation():
    weight, resid = drawn(1)
    rule = slab(weight, 0.0, high=-30.0)
    whole = project(resid, rule)
    half = project(resid, with_fields(rule, strength=0.5, promised=False))
    torch.testing.assert_close(half.resid - resid, (whole.resid - resid) / 2, rtol=1e-6, atol=1e-9)
    assert torch.equal(half.violated, whole.edited)


def test_strength_zero_only_measures():
    weight, resid = drawn(1)
    watched = project(resid, with_fields(slab(weight, 0.0, high=-30.0), strength=0.0))
    assert torch.equal(watched.resid, resid)
    assert torch.equal(watched.before, watched.after)
    assert not watched.edited.any()
    assert torch.equal(watched.violated, watched.before > -30.0)


def test_the_budget_stops_a_row_on_its_way_and_calls_it_capped_not_satisfied():
    weight, resid = drawn(2)
    rule = slab(weight, 0.0, high=-5.0)
    whole = project(resid, rule)
    doses = whole.dose.sort().values
    budget = float(doses[len(doses) // 2 - 1 : len(doses) // 2 + 1].mean())  # of no row: rounding decides nothing
    capped = project(resid, with_fields(rule, max_dose=budget))
    within = whole.dose <= budget
    assert torch.equal(capped.resid[within], whole.resid[within])
    assert torch.equal(capped.capped, ~within)
    assert not capped.violated.any()
    assert capped.dose[~within] == pytest.approx(budget, rel=1e-6)
    one = torch.nn.functional.cosine_similarity(capped.resid - resid, whole.resid - resid)[~within]
    assert one == pytest.approx(1.0, abs=1e-9)


def test_each_row_has_its_own_slab_and_long_input_is_chunked_without_a_trace(monkeypatch):
    weight, resid = drawn(5, rows=30)
    rows = slab(weight, 0.0)
    rule = with_fields(rows, high=torch.linspace(-5, 5, 3).unsqueeze(-1), low=torch.full((3, 1), -math.inf))
    whole = project(resid.view(3, 10, -1).float(), rule)
    for index, high in enumerate(torch.linspace(-5, 5, 3)):
        own = project(resid.view(3, 10, -1)[index].float(), slab(weight, 0.0, high=float(high)))
        assert torch.equal(own.resid, whole.resid[index])
    monkeypatch.setattr("steering.slab._CHUNK", 7)
    for one, other in zip(project(resid.view(3, 10, -1).float(), rule), whole, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_residual_of_zeros_can_be_moved_like_any_other(dtype):
    rule = slab(torch.ones(12), 0.0, low=3.0)
    done = project(torch.zeros(2, 12, dtype=dtype), rule)
    assert not done.violated.any()
    assert (done.after >= 3.0).all()
    joint = joint_slabs(rule.weight[None], rule.bias[None], rule.low[None], rule.high[None])
    assert not project_joint(torch.zeros(2, 12, dtype=dtype), joint).violated.any()


def test_no_rows_are_no_trouble():
    assert project(torch.zeros(2, 0, 12), slab(torch.ones(12), 0.0, high=1.0)).resid.shape == (2, 0, 12)


def test_nothing_branches_on_data_or_waits_for_the_device():
    with FakeTensorMode():  # a fake tensor has no data: .item(), bool() and nonzero() raise
        rule = slab(torch.empty(16), 0.0).map(lambda value: value.expand(6, *value.shape))
        assert project(torch.empty(6, 16, dtype=torch.bfloat16), rule).resid.shape == (6, 16)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (math.nan, 0.0), (0.0, math.nan), (math.inf, -math.inf)])
def test_bounds_that_are_no_region_are_refused(low, high):
    with pytest.raises(InvalidBounds, match="low must not exceed high"):
        slab(torch.ones(3), 0.0, low=low, high=high)
