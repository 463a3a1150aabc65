"""Projections in a metric are true minima of it: against a quadratic programme with the dense M^-1, in float64.

The probe's numbers are float32, as in use, hence tolerances of about 1e-4 of the change where weights are parallel up
to one part in a thousand; the same programme on float64 numbers agrees a thousand times better.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import quadprog
import torch
from torch import Tensor

from steering.box_qp import solve_box
from steering.errors import CorruptProbe, UnsupportedSteering
from steering.joint import JointSlabs, joint_slabs, project_joint
from steering.metric import Metric
from steering.probe import Probe
from steering.slab import Slabs, project, slab

HIDDEN = 24
KINDS = {"random": 1e-9, "nearly parallel": 1e-6, "nearly opposed": 1e-6, "duplicated": 1e-7}
"""How near the float64 programme comes to the reference, relative to the change."""


def draw_metric(rng: np.random.Generator, hidden_size: int = HIDDEN, rank: int = 4) -> Metric:
    """Variances over four decades, directions that stand out."""
    diagonal = 10 ** rng.uniform(-2, 2, hidden_size)
    factor = rng.standard_normal((hidden_size, rank)) * 10 ** rng.uniform(-1, 1, rank)
    return Metric(torch.tensor(diagonal, dtype=torch.float32), torch.tensor(factor, dtype=torch.float32))


def dense(metric: Metric) -> np.ndarray:
    factor = metric.factor.double().numpy()
    matrix: np.ndarray = np.diag(metric.diagonal.double().numpy()) + factor @ factor.T
    return matrix


class Instances(NamedTuple):
    """K slabs per row with a feasible point, and residuals as far out as the metric reaches."""

    weight: Tensor
    low: Tensor
    high: Tensor
    resid: Tensor


def draw(rng: np.random.Generator, metric: Metric, count: int, constraints: int, kind: str) -> Instances:
    shape = (count, constraints)
    weight = rng.standard_normal((*shape, HIDDEN))
    if kind.startswith("nearly"):
        sign = rng.choice([-1.0, 1.0], (*shape, 1)) if kind == "nearly opposed" else 1.0
        weight = sign * rng.standard_normal((count, 1, HIDDEN)) + weight * 10 ** rng.uniform(-3, -1, (*shape, 1))
    elif kind == "duplicated":
        weight[:, -1] = weight[:, 0]
    weight = weight.astype(np.float32)
    root = np.linalg.cholesky(dense(metric))
    resid, feasible = (3 * rng.standard_normal((count, HIDDEN)) @ root.T for _ in range(2))
    value = np.einsum("nkh,nh->nk", weight.astype(np.float64), feasible)
    half = (np.abs(rng.standard_normal(shape)) + 0.01) * np.linalg.norm(weight @ root, axis=-1)
    low, high, side = (value - half).astype(np.float32), (value + half).astype(np.float32), rng.random(shape)
    low[side < 0.35], high[side > 0.65] = -np.inf, np.inf
    if kind == "duplicated":
        low[:, -1], high[:, -1] = low[:, 0], high[:, 0]
    return Instances(*map(torch.from_numpy, (weight, low, high, resid)))


def reference(instances: Instances, metric: Metric) -> np.ndarray:
    """The nearest changes, (count, hidden): argmin delta' M^-1 delta by quadprog with the dense inverse."""
    inverse = np.linalg.inv(dense(metric))
    inverse = (inverse + inverse.T) / 2
    found = []
    for weight, low, high, resid in zip(*(part.double().numpy() for part in instances), strict=True):
        value, length = weight @ resid, np.linalg.norm(weight, axis=1)  # rows of length one: kinder to the reference
        normals = np.concatenate([weight, -weight]) / np.tile(length, 2)[:, None]
        offsets = np.concatenate([low - value, value - high]) / np.tile(length, 2)
        known = np.isfinite(offsets)
        found.append(quadprog.solve_qp(inverse, np.zeros(HIDDEN), normals[known].T, offsets[known])[0])
    return np.stack(found)


def lengths(delta: np.ndarray | Tensor, metric: Metric) -> np.ndarray:
    """Lengths in the metric, densely."""
    wide = np.asarray(delta, dtype=np.float64)
    length: np.ndarray = np.sqrt(np.einsum("ni,ij,nj->n", wide, np.linalg.inv(dense(metric)), wide))
    return length


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constraints", range(1, 9))
def test_the_change_is_the_least_in_the_metric(constraints: int, kind: str) -> None:
    rng = np.random.default_rng(constraints)
    metric = draw_metric(rng)
    instances = draw(rng, metric, 70, constraints, kind)
    expected = reference(instances, metric)
    least = 1 + lengths(expected, metric)

    slabs = metric.joint(instances.weight, torch.zeros(70, constraints), instances.low, instances.high)
    done = project_joint(instances.resid, slabs)
    change = done.resid - instances.resid
    assert not done.violated.any()
    assert (lengths(change.numpy() - expected, metric) <= 2e-4 * least).all()
    assert (lengths(change, metric) <= lengths(expected, metric) + 1e-4 * least).all()

    wide = instances.weight.double()
    lifted = metric.lift(wide)
    size = (wide * lifted).sum(dim=-1).sqrt()
    value = (wide @ instances.resid.unsqueeze(-1)).squeeze(-1)
    gram = (wide @ lifted.mT) / (size.unsqueeze(-1) * size.unsqueeze(-2))
    multiplier, _ = solve_box(value / size, gram, instances.low / size, instances.high / size)
    exact = ((multiplier / size).unsqueeze(-2) @ lifted).squeeze(-2)
    assert (lengths(exact.numpy() - expected, metric) <= KINDS[kind] * least).all()


def test_one_slab_is_the_quadratic_programme_and_lands_on_its_bound() -> None:
    rng = np.random.default_rng(0)
    metric = draw_metric(rng)
    instances = draw(rng, metric, 500, 1, "random")
    expected = reference(instances, metric)
    for weight, low, high, resid, nearest in zip(*instances, expected, strict=True):
        rule = metric.slab(weight[0], 0.0, low=float(low), high=float(high))
        done = project(resid[None], rule)
        change = done.resid[0] - resid
        assert np.allclose(change, nearest, rtol=0, atol=1e-5 * (1 + np.abs(nearest).max()))
        if done.edited.any():
            value = float(weight[0].double() @ done.resid[0])
            bound = float(low if change @ weight[0].double() > 0 else high)
            assert abs(value - bound) <= 1e-5 * (1 + abs(bound) + float(done.before.abs()))


@pytest.mark.parametrize("constraints", [1, 4])
def test_no_feasible_point_is_nearer_in_the_metric_along_any_direction(constraints: int) -> None:
    rng = np.random.default_rng(constraints)
    metric = draw_metric(rng)
    instances = draw(rng, metric, 30, constraints, "random")
    slabs = metric.joint(instances.weight, torch.zeros(30, constraints), instances.low, instances.high)
    change = project_joint(instances.resid, slabs).resid - instances.resid
    length = metric.norm(change)
    root = torch.from_numpy(np.linalg.cholesky(dense(metric)))
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 0.03, 0.3, 1.0):  # around the answer, and around the residual
        steps = torch.randn(500, 30, HIDDEN, generator=generator, dtype=torch.float64) @ root.T * scale
        for tried in (change + steps, steps * length.unsqueeze(-1) / HIDDEN**0.5 / scale):
            value = ((instances.resid + tried).unsqueeze(-2) * instances.weight.double()).sum(dim=-1)
            feasible = ((value >= instances.low) & (value <= instances.high)).all(dim=-1)
            distance = metric.norm(tried).where(feasible, math.inf).amin(dim=0)
            assert bool((distance >= length * (1 - 1e-4) - 1e-9).all())


def test_the_whitened_change_is_shorter_in_the_metric_and_longer_in_plain_length() -> None:
    rng = np.random.default_rng(3)
    metric, weight = draw_metric(rng), torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    resid = torch.from_numpy(rng.standard_normal((50, HIDDEN)) * 5)
    whitened, plain = (rule(resid) - resid for rule in (metric.slab(weight, 0, high=-9.0), slab(weight, 0, high=-9.0)))
    moved = plain.norm(dim=-1) > 0
    assert bool(moved.any())
    assert bool((metric.norm(whitened) < metric.norm(plain))[moved].all())
    assert bool((whitened.norm(dim=-1) > plain.norm(dim=-1))[moved].all())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_a_multiple_of_the_identity_is_the_euclidean_metric(scale: float) -> None:
    torch.manual_seed(0)
    metric = Metric(torch.full((HIDDEN,), scale), torch.zeros(HIDDEN, 2))
    weight, resid = torch.randn(3, HIDDEN), torch.randn(50, HIDDEN, dtype=torch.float64) * 3
    close = {"rtol": 1e-5, "atol": 1e-5}  # float32 directions
    whitened, plain = (
        rule(resid) for rule in (metric.slab(weight[0], 0.5, high=-2.0), slab(weight[0], 0.5, high=-2.0))
    )
    torch.testing.assert_close(whitened, plain, **close)
    bias, low, high = torch.randn(3), torch.full((3,), -6.0), torch.full((3,), -1.0)
    ours, euclidean = (
        project_joint(resid, made).resid
        for made in (metric.joint(weight, bias, low, high), joint_slabs(weight, bias, low, high))
    )
    torch.testing.assert_close(ours, euclidean, **close)
    one = Metric.euclidean(HIDDEN)
    assert torch.equal(one.lift(weight), weight)
    torch.testing.assert_close(one.norm(resid), resid.norm(dim=-1))


def test_the_scale_of_the_metric_does_not_matter_to_the_projection() -> None:
    rng = np.random.default_rng(5)
    metric = draw_metric(rng)
    larger = Metric(metric.diagonal * 64, metric.factor * 8)  # powers of two: exact
    weight, resid = torch.randn(HIDDEN), torch.from_numpy(rng.standard_normal((20, HIDDEN)))
    assert torch.equal(metric.slab(weight, 0, high=-3.0)(resid), larger.slab(weight, 0, high=-3.0)(resid))


@pytest.mark.parametrize("rank", [0, 1, 7, 40])
def test_lift_norm_and_direction_are_those_of_the_dense_matrix(rank: int) -> None:
    rng = np.random.default_rng(rank)
    metric = draw_metric(rng, rank=rank)
    weight = torch.from_numpy(rng.standard_normal((2, 5, HIDDEN)))
    matrix = torch.from_numpy(dense(metric))
    torch.testing.assert_close(metric.lift(weight), weight @ matrix, rtol=1e-12, atol=1e-9)
    expected = np.sqrt(np.einsum("abi,ij,abj->ab", weight, np.linalg.inv(matrix.numpy()), weight))
    np.testing.assert_allclose(metric.norm(weight).numpy(), expected, rtol=1e-9)
    along = metric.direction(weight)
    torch.testing.assert_close((along * weight).sum(dim=-1), torch.ones(2, 5, dtype=torch.float64))
    unit = weight.float()[0, 0]
    assert metric.lift(unit).dtype == torch.float32
    torch.testing.assert_close(metric.direction(unit), metric.slab(unit, 0.0).direction, rtol=1e-5, atol=0)


def test_the_length_stays_true_where_the_diagonal_is_tiny_against_the_factor() -> None:
    """The textbook form of Woodbury subtracts two numbers of 1e12 here."""
    metric = Metric(torch.full((6,), 1e-12), torch.tensor([[1.0, 2.0, 0.5, 1.0, 1.0, 3.0]]).T)
    along = metric.factor[:, 0].double()
    assert float(metric.norm(3 * along)) == pytest.approx(3.0, rel=1e-6)
    assert float(metric.norm(torch.zeros(6))) == 0.0


def test_slabs_in_a_metric_have_the_fields_and_shapes_of_the_euclidean_and_cost_the_same_steps() -> None:
    metric = draw_metric(np.random.default_rng(0))
    weight, bounds = torch.randn(3, HIDDEN), (torch.zeros(3), torch.full((3,), -1.0), torch.ones(3))
    pairs: list[tuple[Slabs | JointSlabs, Slabs | JointSlabs]] = [
        (metric.slab(weight[0], 0.0, high=1.0), slab(weight[0], 0.0, high=1.0)),
        (metric.joint(weight, *bounds), joint_slabs(weight, *bounds)),
    ]
    for ours, euclidean in pairs:
        assert {name: (value.shape, value.dtype) for name, value in vars(ours).items()} == {
            name: (value.shape, value.dtype) for name, value in vars(euclidean).items()
        }


def test_a_probe_without_a_metric_says_so_and_one_with_it_is_read(probe: Probe) -> None:
    with pytest.raises(UnsupportedSteering, match="carries no 'metric' statistics at layer 2"):
        Metric.of(probe, 2)
    size = probe.manifest.base_model.hidden_size
    parts = {"metric.diagonal": torch.rand(size) + 0.1, "metric.factor": torch.randn(size, 3)}
    layers = {number: replace(layer, fitted=parts) for number, layer in probe.layers.items()}
    read = Metric.of(replace(probe, layers=layers), 2)
    assert torch.equal(read.diagonal, parts["metric.diagonal"])
    assert torch.equal(read.factor, parts["metric.factor"])


@pytest.mark.parametrize(
    ("diagonal", "factor"),
    [
        (torch.tensor([1.0, 0.0]), torch.zeros(2, 1)),
        (torch.tensor([1.0, -1.0]), torch.zeros(2, 1)),
        (torch.tensor([1.0, math.nan]), torch.zeros(2, 1)),
        (torch.ones(2), torch.full((2, 1), math.inf)),
        (torch.ones(2), torch.zeros(3, 1)),
        (torch.ones(2), torch.zeros(2)),
    ],
)
def test_what_is_no_metric_is_refused(diagonal: Tensor, factor: Tensor) -> None:
    with pytest.raises(CorruptProbe, match="metric"):
        Metric(diagonal, factor)
