"""What every projection obeys, single and joint, Euclidean and whitened: hypothesis draws the slabs and the residuals.

Laws about points are checked in float64 residuals, with the tolerance that float32 weights and directions leave; laws
about stored values in every dtype, with none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.joint import JointSlabs, project_joint
from steering.metric import Metric
from steering.slab import project

HIDDEN, ROWS = 48, 12
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 8)
whitened = st.booleans()
shared = st.sampled_from([0.0, 0.5, 1.0, 3.0])  # of the weights: how much they have in common, so how parallel they are


class Case(NamedTuple):
    """Slabs that have a point in common, and residuals around it, mostly outside."""

    metric: Metric
    weight: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor
    resid: Tensor

    @property
    def slabs(self) -> JointSlabs:
        return self.metric.joint(self.weight, self.bias, self.low, self.high)

    def change(self) -> Tensor:
        done = project_joint(self.resid, self.slabs)
        assert not done.violated.any()
        return done.resid - self.resid

    def holds(self, resid: Tensor) -> Tensor:
        """Read again in float64, (...)."""
        value = resid.double() @ self.weight.double().T + self.bias.double()
        return ((value >= self.low) & (value <= self.high)).all(dim=-1)


def draw(seed: int, count: int, white: bool, common: float = 0.0) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    metric = Metric.euclidean(HIDDEN)
    if white:
        metric = Metric(torch.exp(normal(HIDDEN)), normal(HIDDEN, 4) * torch.exp(normal(4)))
    sign = torch.where(torch.rand(count, 1, generator=generator) < 0.5, -1.0, 1.0)
    weight, bias = normal(count, HIDDEN) + sign * common * normal(HIDDEN), normal(count)
    resid = 3 * normal(ROWS, HIDDEN)
    spread = (resid.std() * weight.norm(dim=-1)).float()
    middle = weight @ (3 * normal(HIDDEN)) + bias
    half = spread * (0.3 + torch.rand(count, generator=generator))
    side = torch.rand(count, generator=generator)
    low = torch.where(side < 0.35, -math.inf, middle - half)
    high = torch.where(side > 0.65, math.inf, middle + half)
    return Case(metric, weight, bias, low, high, resid.double())


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-4)


@settings(max_examples=60, deadline=None)
@given(seeds, counts, whitened, shared, st.sampled_from(DTYPES))
def test_the_stored_row_is_inside_a_second_pass_changes_nothing_and_rows_inside_are_bit_exact(
    seed, count, white, common, dtype
):
    case = draw(seed, count, white, common)
    resid = case.resid.to(dtype)
    once = project_joint(resid, case.slabs)
    assert not once.violated.any()
    assert case.holds(once.resid)[once.edited.any(dim=-1)].all()
    twice = project_joint(once.resid, case.slabs)
    assert torch.equal(twice.resid, once.resid)
    assert not twice.edited.any()
    still = ~once.edited.any(dim=-1)
    assert torch.equal(once.resid[still], resid[still])
    assert not once.dose[still].any()


@settings(max_examples=60, deadline=None)
@given(seeds, counts, whitened, shared)
def test_no_feasible_point_is_nearer(seed, count, white, common):
    """Nor any between it and the answer: the region is convex, so that looks at the answer's neighbourhood."""
    case = draw(seed, count, white, common)
    change = case.change()
    generator = torch.Generator().manual_seed(seed)
    far = 3 * torch.randn(40, ROWS, HIDDEN, generator=generator, dtype=torch.float64)
    reached = project_joint(case.resid + far, case.slabs)
    assert not reached.violated.any()
    other = reached.resid - case.resid
    nearest = case.metric.norm(change)
    for share in (1.0, 0.3, 0.01):
        between = change + share * (other - change)
        assert bool((case.metric.norm(between) >= nearest * (1 - 1e-4) - 1e-6).all())


@settings(max_examples=60, deadline=None)
@given(seeds, counts, whitened, shared)
def test_the_change_lies_in_the_span_of_the_lifted_weights_that_bind(seed, count, white, common):
    case = draw(seed, count, white, common)
    change = case.change()
    value = (case.resid + change) @ case.weight.double().T + case.bias.double()
    scale = 1e-4 * (1 + case.weight.double().norm(dim=-1) * case.resid.norm(dim=-1, keepdim=True))
    binds = ((value - case.low).abs() <= scale) | ((value - case.high).abs() <= scale)
    lifted = case.metric.lift(case.weight.double())
    for moved, bound in zip(change, binds, strict=True):
        if moved.any():
            assert bound.any()
            basis = torch.linalg.qr(lifted[bound].T).Q
            assert float((moved - basis @ (basis.T @ moved)).norm()) <= 1e-4 * float(moved.norm())


@settings(max_examples=60, deadline=None)
@given(seeds, counts, whitened, shared)
def test_only_the_regions_count_not_how_each_probe_is_scaled(seed, count, white, common):
    case = draw(seed, count, white, common)
    factor = 10 ** (4 * torch.rand(count, generator=torch.Generator().manual_seed(seed)) - 2)
    scaled = case._replace(
        weight=factor.unsqueeze(-1) * case.weight,
        bias=factor * case.bias,
        low=factor * case.low,
        high=factor * case.high,
    )
    close(scaled.change(), case.change())


@settings(max_examples=60, deadline=None)
@given(seeds, counts, whitened, shared)
def test_the_order_of_the_slabs_and_repeating_one_do_not_matter(seed, count, white, common):
    case = draw(seed, count, white, common)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for chosen in (order, torch.cat([order, order[:1]])):
        again = Case(case.metric, *(part[chosen] for part in case[1:5]), case.resid)
        close(again.change(), case.change())


@settings(max_examples=60, deadline=None)
@given(seeds, whitened, st.sampled_from(DTYPES))
def test_one_slab_alone_obeys_the_same_laws_and_is_the_joint_projection_of_one(seed, white, dtype):
    case = draw(seed, 1, white)
    rule = case.metric.slab(case.weight[0], float(case.bias), low=float(case.low), high=float(case.high))
    resid = case.resid.to(dtype)
    once = project(resid, rule)
    assert not once.violated.any()
    assert case.holds(once.resid)[once.edited].all()
    assert torch.equal(project(once.resid, rule).resid, once.resid)
    assert torch.equal(once.resid[~once.edited], resid[~once.edited])
    close(project(case.resid, rule).resid - case.resid, case.change())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
@pytest.mark.parametrize(("count", "hidden_size", "rows"), [(1, 64, 100_000), (1, 576, 20_000), (4, 64, 100_000)])
def test_no_stored_row_of_a_hundred_thousand_is_outside_in_the_metric(dtype, count, hidden_size, rows):
    """Also where one coordinate is a hundred times the others, in the stream and in the metric, as in real models."""
    torch.manual_seed(count)
    diagonal, factor = torch.exp(torch.randn(hidden_size)), torch.randn(hidden_size, 8)
    diagonal[3], factor[3] = 1e4, 100.0
    metric = Metric(diagonal, factor)
    weight, bias = torch.randn(count, hidden_size), torch.randn(count)
    weight[:, 3] *= 0.1

    def residuals(number: int) -> Tensor:
        return torch.randn(number, hidden_size) * diagonal.sqrt()

    value = residuals(1000) @ weight.T + bias
    middle, spread = value.quantile(0.4, dim=0), value.std(dim=0)
    low, high = middle - spread, middle + 0.1 * spread
    low[0] = -math.inf
    slabs = metric.joint(weight, bias, low, high)
    single = metric.slab(weight[0], float(bias[0]), high=float(high[0]))
    for _ in range(0, rows, 10_000):
        resid = residuals(10_000).to(dtype)
        done = project_joint(resid, slabs) if count > 1 else project(resid, single)
        stored = done.resid.double() @ weight.double().T + bias.double()
        assert not ((stored < low) | (stored > high)).any()
        assert not done.violated.any()
        assert done.edited.double().mean() > 0.3
