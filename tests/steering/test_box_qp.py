"""The active-set solver, batched and compiled, against an independent one (quadprog: Goldfarb and Idnani).

Tolerance: the change agrees to 1e-12 of its length for random weights, and to 1e-5 where they are parallel up to one
part in ten thousand: a condition number of 1e8, which is what the reference itself resolves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import quadprog
import torch

from steering.box_qp import MAX_CONSTRAINTS, rounds_for, solve_box
from steering.kernels import box

HIDDEN = 24
KINDS = {"random": 1e-12, "nearly parallel": 1e-5, "nearly opposed": 1e-5, "repelling": 1e-6, "duplicated": 1e-6}


class Instance(NamedTuple):
    weight: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw(rng: np.random.Generator, constraints: int, kind: str) -> Instance:
    """Unit weights of one kind, the read-outs of a random residual, slabs around a feasible point."""
    weight = rng.standard_normal((constraints, HIDDEN))
    if kind.startswith("nearly"):
        sign = rng.choice([-1.0, 1.0], constraints) if kind == "nearly opposed" else np.ones(constraints)
        weight = sign[:, None] * rng.standard_normal(HIDDEN) + weight * 10.0 ** rng.uniform(-4, -1)
    elif kind == "repelling":
        weight = weight - weight.mean(axis=0) * rng.uniform(0.5, 1.0)
    elif kind == "duplicated":
        weight[-1] = weight[0]
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    value = weight @ rng.standard_normal(HIDDEN) * 3
    centre = weight @ rng.standard_normal(HIDDEN) * 3
    half = np.abs(rng.standard_normal(constraints)) + 0.01
    low, high = centre - half, centre + half
    side = rng.random(constraints)
    low[side < 0.35], high[side > 0.65] = -np.inf, np.inf
    return Instance(weight, value, low, high)


def reference(instance: Instance) -> np.ndarray:
    """The change of the residual, by quadprog."""
    lower, upper = np.isfinite(instance.low), np.isfinite(instance.high)
    normals = np.concatenate([instance.weight[lower], -instance.weight[upper]])
    offsets = np.concatenate([(instance.low - instance.value)[lower], (instance.value - instance.high)[upper]])
    solution: np.ndarray = quadprog.solve_qp(np.eye(HIDDEN), np.zeros(HIDDEN), normals.T, offsets)[0]
    return solution


def solve(instances: list[Instance], *, form: str = "tensor") -> tuple[np.ndarray, np.ndarray]:
    """Changes (n, hidden) and multipliers (n, K): all in one batch, or one by one in the compiled loop."""
    if form == "compiled":
        found = np.array([solve_compiled(instance) for instance in instances])
        return np.array(
            [multiplier @ instance.weight for instance, multiplier in zip(instances, found, strict=True)]
        ), found
    weight, value, low, high = (torch.tensor(np.stack(parts)) for parts in zip(*instances, strict=True))
    multiplier, _ = solve_box(value, weight @ weight.mT, low, high)
    return (multiplier.unsqueeze(-2) @ weight).squeeze(-2).numpy(), multiplier.numpy()


def solve_compiled(instance: Instance) -> np.ndarray:
    """Multipliers (K,) of one instance."""
    _, value, low, high = instance
    multiplier, side = np.zeros(len(value)), np.where(value < low, 1.0, np.where(value > high, -1.0, 0.0))
    gram = instance.weight @ instance.weight.T
    box.solve(value, gram, low, high, side, multiplier, rounds_for(len(value)))
    return multiplier


@pytest.mark.parametrize("form", ["tensor", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constraints", [2, 3, 5, 8, MAX_CONSTRAINTS])
def test_the_change_is_the_quadratic_programmes(constraints: int, kind: str, form: str) -> None:
    rng = np.random.default_rng(constraints)
    instances = [draw(rng, constraints, kind) for _ in range(420)]
    changes, _ = solve(instances, form=form)
    for instance, change in zip(instances, changes, strict=True):
        expected = reference(instance)
        assert np.linalg.norm(change - expected) <= KINDS[kind] * (1 + np.linalg.norm(expected))


def test_multipliers_push_only_at_bounds_that_are_met() -> None:
    rng = np.random.default_rng(0)
    instances = [draw(rng, 6, "random") for _ in range(300)]
    changes, multipliers = solve(instances)
    for instance, change, multiplier in zip(instances, changes, multipliers, strict=True):
        reached = instance.value + instance.weight @ change
        assert (reached >= instance.low - 1e-9).all()
        assert (reached <= instance.high + 1e-9).all()
        assert np.allclose(reached[multiplier > 1e-9], instance.low[multiplier > 1e-9])
        assert np.allclose(reached[multiplier < -1e-9], instance.high[multiplier < -1e-9])


def test_a_row_is_solved_the_same_alone_and_in_any_batch() -> None:
    rng = np.random.default_rng(1)
    instances = [draw(rng, 8, kind) for kind in KINDS for _ in range(20)]
    together, _ = solve(instances)
    for at in range(0, len(instances), 7):
        alone, _ = solve([instances[at]])
        assert np.array_equal(alone[0], together[at])


def test_the_order_of_constraints_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    instances = [draw(rng, 7, "random") for _ in range(200)]
    order = rng.permutation(7)
    shuffled = [Instance(*(part[order] for part in instance)) for instance in instances]
    assert np.allclose(solve(instances)[0], solve(shuffled)[0], atol=1e-10)


def test_inside_every_bound_nothing_moves() -> None:
    value = torch.zeros(4, 3, dtype=torch.float64)
    multiplier, side = solve_box(value, torch.eye(3).expand(4, 3, 3), value - 1, value + 1)
    assert not multiplier.any()
    assert not side.any()
