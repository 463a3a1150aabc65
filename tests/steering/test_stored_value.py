"""What counts is the value on the stored tensor: verified after the cast, and what fails is counted, never hidden.

Every check reads the stored tensor again in float64.
"""

from __future__ import annotations

import math

import pytest
import torch

from steering import project
from steering.slab import Slabs, narrowest, slab

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [64, 256, 576, 1024, 4096]


def stream(hidden_size, dtype, *, rows=256, outliers=False):
    """Residuals as models have them; with `outliers`, three coordinates are thirty times the others."""
    generator = torch.Generator().manual_seed(hidden_size)
    weight = torch.randn(hidden_size, generator=generator)
    resid = 3 * torch.randn(rows, hidden_size, generator=generator)
    if outliers:
        resid[:, :: hidden_size // 3] *= 30
    return weight / weight.norm(), resid.to(dtype)


def relied_on(resid, *, reach):
    norm = float(resid.double().norm(dim=-1).mean())
    size = resid.shape[-1]
    return narrowest(weight_norm=1.0, resid_norm=norm, hidden_size=size, reach=reach, dtype=resid.dtype)


def reread(resid, weight, bias):
    return resid.double() @ weight.double() + bias


@pytest.mark.parametrize("outliers", [False, True], ids=["even", "outliers"])
@pytest.mark.parametrize("hidden_size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_violation_in_any_slab_wider_than_the_narrowest(dtype, hidden_size, outliers):
    weight, resid = stream(hidden_size, dtype, outliers=outliers)
    for centre in (-4.0, 0.3, 2.0, 30.0):
        width = relied_on(resid, reach=abs(centre) + 0.25)
        low, high = centre - width / 2, centre + width / 2
        done = project(resid, slab(weight, 0.25, low=low, high=high))
        assert int(done.violated.sum()) == 0
        assert done.resid.dtype == dtype
        logits = reread(done.resid, weight, 0.25)
        assert bool(((logits >= low) & (logits <= high)).all())
        assert bool(done.edited.any())


@pytest.mark.parametrize("hidden_size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_half_space_holds_and_costs_no_more_than_the_rounding(dtype, hidden_size):
    weight, resid = stream(hidden_size, dtype)
    done = project(resid, slab(weight, 0.25, high=0.0))
    logits = reread(done.resid, weight, 0.25)
    assert float(logits.max()) <= 0.0
    assert not done.violated.any()
    slack = relied_on(resid, reach=0.25)
    assert float(logits[done.edited].min()) >= -slack


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_the_plain_formula_would_break_the_bound_after_the_cast(dtype):
    """The control: without verification about half of the edited rows are outside."""
    weight, resid = stream(1024, dtype)
    logit = reread(resid, weight, 0.0)
    naive = (
        resid.double()
        + (logit.clamp_max(0.0) - logit).unsqueeze(-1) * weight.double() / weight.double().dot(weight.double())
    ).to(dtype)
    outside = reread(naive, weight, 0.0)[logit > 0] > 0
    assert 0.3 < float(outside.double().mean()) < 0.7
    assert float(reread(project(resid, slab(weight, 0.0, high=0.0)).resid, weight, 0.0).max()) <= 0.0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_reported_is_what_is_stored(dtype):
    weight, resid = stream(576, dtype)
    done = project(resid, slab(weight, 0.25, low=-0.5, high=0.5))
    torch.testing.assert_close(done.before.double(), reread(resid, weight, 0.25), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(done.after.double(), reread(done.resid, weight, 0.25), rtol=1e-5, atol=1e-5)
    dose = (done.resid.double() - resid.double()).norm(dim=-1) / resid.double().norm(dim=-1)
    torch.testing.assert_close(done.dose.double(), dose, rtol=1e-4, atol=1e-6)


def test_a_slab_too_narrow_for_the_dtype_is_a_counted_violation():
    weight, resid = stream(576, torch.bfloat16)
    done = project(resid, slab(weight, 0.25, low=0.1, high=0.1 + 1e-6))
    logits = reread(done.resid, weight, 0.25)
    outside = (logits < 0.1) | (logits > 0.1 + 1e-6)
    assert float(outside.double().mean()) > 0.5
    assert bool((done.violated | ~outside).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_a_violation_and_leaves_its_neighbours_alone(dtype, bad):
    weight, resid = stream(64, dtype, rows=4)
    rule = slab(weight, 0.0, low=-0.5, high=0.0)
    clean = project(resid, rule)
    spoilt = resid.clone()
    spoilt[2, 5] = bad
    done = project(spoilt, rule)
    assert done.violated.tolist() == [False, False, True, False]
    keep = [0, 1, 3]
    assert torch.equal(done.resid[keep], clean.resid[keep])


def test_an_edit_that_overflows_float16_is_a_violation():
    weight = torch.zeros(64)
    weight[0] = 1e-3
    resid = torch.full((2, 64), 100.0, dtype=torch.float16)
    done = project(resid, slab(weight, 0.0, low=100.0))  # asks for 100,000 in a dtype that ends at 65,504
    assert done.violated.all()


def test_a_row_that_is_infinite_on_the_allowed_side_is_a_violation_all_the_same():
    resid = torch.full((1, 8), math.inf)
    assert project(resid, slab(torch.ones(8), 0.0, low=1.0)).violated.all()


def test_rows_without_bounds_are_never_violations_even_when_they_are_nan():
    resid = torch.full((2, 8), math.nan)
    done = project(resid, slab(torch.ones(8), 0.0))
    assert not done.violated.any()
    assert not done.edited.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_under_a_budget_a_row_outside_is_always_capped_never_a_violation(dtype):
    """Also where the budget covers the exact change but not the extra that rounding needs."""
    weight, resid = stream(576, dtype)
    rule = slab(weight, 0.25, high=-1.0)
    exact = (reread(resid, weight, 0.25) + 1.0).clamp_min(0) / resid.double().norm(dim=-1)
    for share in (0.5, 0.999, 1.0, 1.001, 1.01):
        budgets = (share * exact).float().clamp_min(1e-6)
        done = project(resid, Slabs(**vars(rule) | {"max_dose": budgets}))
        assert not done.violated.any(), share
        assert torch.equal(done.capped, done.after > -1.0), share
        assert bool((reread(done.resid, weight, 0.25)[~done.capped] <= -1.0 + 1e-5).all()), share
        spacing = torch.finfo(dtype).eps
        assert bool((done.dose <= budgets * 1.01 + spacing).all()), share
