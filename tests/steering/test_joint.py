"""The joint projection on residuals: all bounds at once, on the stored value, by the smallest change."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import quadprog
import torch
from torch import Tensor

from steering.joint import JointSlabs, feasible_box, joint_slabs, project_joint
from steering.kernels.layer import project_compiled
from steering.slab import project, slab

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def draw(
    *, constraints: int, hidden_size: int, shared: float = 0.0, lifted: bool = False, seed: int = 0
) -> tuple[JointSlabs, Tensor, Tensor]:
    """Slabs of which the first is two-sided and the second points up, their weights, and M."""
    torch.manual_seed(seed)
    weight = torch.randn(constraints, hidden_size) * 0.3 + shared * torch.randn(hidden_size)
    spread = 3 * weight.norm(dim=-1)
    low, high = torch.full((constraints,), -math.inf), -0.3 * spread
    low[0], low[1], high[1] = -1.5 * spread[0], 0.2 * spread[1], math.inf
    factor = torch.randn(hidden_size, 8)
    metric = torch.diag(torch.rand(hidden_size) + 0.5) + factor @ factor.T if lifted else torch.eye(hidden_size)
    slabs = joint_slabs(weight, torch.randn(constraints), low, high, lifted=weight @ metric)
    return slabs, weight, metric


def outside(stored: Tensor, slabs: JointSlabs) -> Tensor:
    """Rows whose float64 read-out misses some bound."""
    value = stored.double() @ slabs.weight.double().T + slabs.bias.double()
    return ((value < slabs.low) | (value > slabs.high)).any(dim=-1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden_size", [64, 576, 2048])
@pytest.mark.parametrize("constraints", [2, 8])
def test_every_stored_row_is_inside_every_slab_and_a_second_pass_changes_nothing(
    dtype: torch.dtype, hidden_size: int, constraints: int
) -> None:
    slabs, _, _ = draw(constraints=constraints, hidden_size=hidden_size, shared=0.2)
    resid = (torch.randn(400, hidden_size) * 3).to(dtype)
    done = project_joint(resid, slabs)
    assert done.edited.any()
    assert not done.violated.any()
    assert not outside(done.resid, slabs).any()
    assert torch.equal(project_joint(done.resid, slabs).resid, done.resid)


@pytest.mark.parametrize("lifted", [False, True], ids=["euclidean", "whitened"])
def test_the_change_is_the_smallest_in_its_metric(lifted: bool) -> None:
    slabs, weight, metric = draw(constraints=4, hidden_size=32, lifted=lifted)
    resid = torch.randn(200, 32, dtype=torch.float64) * 3
    change = (project_joint(resid, slabs).resid - resid).numpy()
    inverse = np.linalg.inv(metric.double().numpy())
    normals = np.concatenate([weight.numpy(), -weight.numpy()]).astype(np.float64)
    value = (resid @ weight.double().T + slabs.bias.double()).numpy()
    for row, moved in zip(value, change, strict=True):
        offsets = np.concatenate([slabs.low.numpy() - row, row - slabs.high.numpy()])
        known = np.isfinite(offsets)
        expected = quadprog.solve_qp((inverse + inverse.T) / 2, np.zeros(32), normals[known].T, offsets[known])[0]
        # Float32 directions: the stored change may differ by their rounding.
        assert np.linalg.norm(moved - expected) <= 2e-5 * (1 + np.linalg.norm(expected))


def test_one_after_another_breaks_the_first_bound_where_both_together_do_not() -> None:
    first = torch.tensor([1.0, 0.0])
    second = torch.tensor([-0.8, 0.6])  # pulls the other way: their cosine is -0.8
    resid = torch.tensor([[3.0, -3.0]])
    one, two = slab(first, 0.0, high=0.0), slab(second, 0.0, high=-6.0)
    in_turn = project(project(resid, one).resid, two).resid
    assert float(in_turn @ first) > 1.0
    both = joint_slabs(
        torch.stack([first, second]), torch.zeros(2), torch.full((2,), -math.inf), torch.tensor([0.0, -6.0])
    )
    together = project_joint(resid, both).resid
    assert float(together @ first) <= 0.0
    assert float(together @ second) <= -6.0


def test_for_orthogonal_probes_in_turn_and_together_agree() -> None:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(16, 3))
    resid = torch.randn(50, 16, dtype=torch.float64) * 3
    in_turn = resid
    for column in basis.T:
        in_turn = project(in_turn, slab(column, 0.0, low=-0.5, high=0.5)).resid
    slabs = joint_slabs(basis.T, torch.zeros(3), torch.full((3,), -0.5), torch.full((3,), 0.5))
    assert torch.allclose(project_joint(resid, slabs).resid, in_turn, atol=1e-6)


def test_one_constraint_agrees_with_the_single_slab() -> None:
    torch.manual_seed(0)
    weight, resid = torch.randn(64), torch.randn(100, 64) * 3
    alone = project(resid, slab(weight, 0.5, high=-1.0)).resid
    slabs = joint_slabs(weight[None], torch.tensor([0.5]), torch.tensor([-math.inf]), torch.tensor([-1.0]))
    assert torch.allclose(project_joint(resid, slabs).resid, alone, atol=1e-5)


def test_rows_already_inside_are_bit_exact() -> None:
    slabs, _, _ = draw(constraints=3, hidden_size=64)
    resid = project_joint(torch.randn(100, 64) * 3, slabs).resid
    done = project_joint(resid, slabs)
    assert torch.equal(done.resid, resid)
    assert not done.edited.any()
    assert not done.dose.any()


def test_opposed_slabs_are_called_disjoint_and_meet_half_way_by_least_squares() -> None:
    weight = torch.tensor([3.0, 4.0])  # norm 5
    slabs = joint_slabs(
        torch.stack([weight, -2 * weight]), torch.zeros(2), torch.full((2,), -math.inf), torch.tensor([-15.0, -10.0])
    )  # w.x <= -15 and w.x >= 5: half way is -5, two units of the metric from each
    low, high, gave = feasible_box(slabs)
    assert gave.tolist() == [True, True]
    assert high.tolist() == pytest.approx([-5.0, 10.0], abs=1e-3)
    assert (low == -math.inf).all()


@pytest.mark.parametrize("cosine", [0.0, 0.9, -0.9, -0.99])
def test_slabs_of_independent_weights_always_meet(cosine: float) -> None:
    weight = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    _, high, gave = feasible_box(
        joint_slabs(weight, torch.zeros(2), torch.full((2,), -math.inf), torch.tensor([-5.0, -5.0]))
    )
    assert not gave.any()
    assert high.tolist() == [-5.0, -5.0]


def test_parallel_slabs_that_overlap_meet() -> None:
    weight = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    _, _, gave = feasible_box(joint_slabs(weight, torch.zeros(2), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])))
    assert not gave.any()


def test_a_long_sequence_is_handled_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    slabs, _, _ = draw(constraints=3, hidden_size=64)
    resid = torch.randn(2, 50, 64) * 3
    here = slabs.only(torch.rand(2, 50, 3) > 0.3)
    whole = project_joint(resid, here)
    monkeypatch.setattr(sys.modules["steering.joint"], "_CANDIDATE_NUMBERS", 7 * 2 * 3 * 64 * 8)
    for part, expected in zip(project_joint(resid, here), whole, strict=True):
        assert torch.equal(part, expected)


def test_a_budget_stops_the_row_and_the_row_says_so() -> None:
    slabs, weight, _ = draw(constraints=3, hidden_size=64)
    capped = joint_slabs(weight, slabs.bias, slabs.low, slabs.high, max_dose=0.01)
    resid = torch.randn(200, 64) * 3
    done = project_joint(resid, capped)
    assert (done.dose <= 0.01 + 1e-6).all()
    assert done.capped.any()
    assert not done.violated.any()
    assert torch.equal(done.capped.any(dim=-1), outside(done.resid, capped))


def test_far_bounds_of_independent_weights_are_not_called_disjoint() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 64)
    _, _, gave = feasible_box(joint_slabs(weight, torch.zeros(2), torch.full((2,), 1e6), torch.full((2,), math.inf)))
    assert not gave.any()


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4])
@pytest.mark.parametrize("scale", [1.0, -1.0, 3.0, -0.37])
@pytest.mark.parametrize("form", ["tensor", "compiled"])
def test_weights_that_are_parallel_but_for_noise_compromise_without_leaving_the_stream(form, scale, noise) -> None:
    """Two read-outs of one concept, one asked for w.x <= -1 and the other for what means w.x >= 1."""
    torch.manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(576), dim=0)
    other = scale * (weight + noise * torch.nn.functional.normalize(torch.randn(576), dim=0))
    low, high = torch.tensor([-math.inf, -math.inf]), torch.tensor([-1.0, math.inf])
    (low if scale > 0 else high)[1] = scale
    weights, bias = torch.stack([weight, other]), torch.zeros(2)
    resid = 3 * torch.randn(200, 576)
    lower, upper, gave = feasible_box(joint_slabs(weights, bias, low, high), reach=4 * 72.0)
    assert gave.all()
    slabs = joint_slabs(weights, bias, lower, upper, soft=gave)
    stored = project_compiled(resid, slabs)[0] if form == "compiled" else project_joint(resid, slabs).resid
    middle = float(upper[0])
    assert -1 <= middle <= 1
    assert float((stored @ weight - middle).abs().max()) < 0.02
    needed = (resid @ weight - middle).abs()
    assert float(((stored - resid).norm(dim=-1) - needed).abs().max()) < 0.02
