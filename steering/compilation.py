"""From plans to tensors, once per batch composition: what each layer applies, and which tokens each constraint means.

At each layer, rows with one constraint share one `Slabs` and rows with several one `JointSlabs`, so that what happens
to a row follows from its own plan and never from its neighbours'. Rows without a constraint pass bit-exact.
A constraint's place in its plan is its *slot*; tables over (layer, slot, row) say where it acts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.controllers.random import random_direction
from steering.joint import JointSlabs, joint_slabs
from steering.plan import FOREVER, PROMPT_START, Constraint, Plan
from steering.slab import Slabs


@dataclass(frozen=True, eq=False)
class Tables:
    """Where each constraint acts; all (layers, slots, rows)."""

    start: Tensor
    """First generated offset, on the host"""
    stop: Tensor
    """End of the generated offsets, on the host"""
    prompt: Tensor
    """First prompt offset, on the host; 0 for none"""
    scale: Tensor
    """Calibration slope, float64"""
    shift: Tensor
    """Calibration intercept, float64"""
    gave: Tensor
    """bool: the bound had to give way, since the plan's slabs do not intersect at this layer"""


def steered_layers(plans: Sequence[Plan | None]) -> list[int]:
    """Every layer some plan steers, rising."""
    return sorted({layer for plan in plans if plan for layer in plan.layers})


def compile_tables(plans: Sequence[Plan | None], layers: Sequence[int], *, device: torch.device) -> Tables:
    """The tables of a batch; a slot that does not act somewhere has an empty window there."""
    shape = (len(layers), max((len(plan.constraints) for plan in plans if plan), default=0), len(plans))
    start, stop, prompt = torch.full(shape, FOREVER), torch.zeros(shape).long(), torch.zeros(shape).long()
    scale, shift = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    gave = torch.zeros(shape, dtype=torch.bool)
    for row, plan in enumerate(plans):
        if plan is None:
            continue
        for index, layer in enumerate(layers):
            for slot, constraint in plan.at(layer):
                place = (index, slot, row)
                start[place], end = constraint.generation
                stop[place] = FOREVER if end is None else end
                prompt[place] = PROMPT_START[constraint.prompt]
                scale[place], shift[place] = constraint.probe.at(layer).calibration
                gave[place] = plan.gave_way(layer, slot)
    return Tables(start, stop, prompt, scale.to(device), shift.to(device), gave.to(device))


@dataclass(frozen=True, eq=False)
class LayerWork:
    """What the batch does at one layer; row tensors have an axis of 1 that broadcasts over the tokens of a pass."""

    single: Slabs
    """Of all rows; free for those that are in `joint`"""
    joint: JointSlabs | None
    """Of the rows with several constraints here, in the order of `rows`; None when there are none"""
    rows: Tensor
    """(n,) int64: which rows those are"""

    def to(self, device: torch.device) -> LayerWork:
        """The same on another device."""

        def move(value: Tensor) -> Tensor:
            return value.to(device)

        return LayerWork(self.single.map(move), self.joint and self.joint.map(move), self.rows.to(device))


def compile_layer(
    plans: Sequence[Plan | None], layer: int, *, hidden_size: int, slots: int, device: torch.device
) -> LayerWork:
    """The work of a batch at one layer."""
    acting = [plan.at(layer) if plan else [] for plan in plans]
    rows = [row for row, found in enumerate(acting) if len(found) > 1]
    alone = [found if len(found) == 1 else [] for found in acting]
    single = _single(plans, alone, layer, hidden_size=hidden_size)
    several = [plans[row] for row in rows], [acting[row] for row in rows]
    joint = _joint(*several, layer, hidden_size=hidden_size, slots=slots) if rows else None
    return LayerWork(single, joint, torch.tensor(rows, dtype=torch.long)).to(device)


def _single(
    plans: Sequence[Plan | None], acting: Sequence[list[tuple[int, Constraint]]], layer: int, *, hidden_size: int
) -> Slabs:
    rows = len(plans)
    weight, direction = torch.zeros(rows, hidden_size), torch.zeros(rows, hidden_size)
    bias, strength, promised = torch.zeros(rows), torch.zeros(rows), torch.zeros(rows, dtype=torch.bool)
    low, high, max_dose = torch.full((rows,), -math.inf), torch.full((rows,), math.inf), torch.full((rows,), math.inf)
    for row, found in enumerate(acting):
        for _, constraint in found:
            fitted = constraint.probe.at(layer)
            weight[row], bias[row] = fitted.weight, fitted.bias
            low[row], high[row] = _inward(constraint.interval(layer))
            direction[row] = fitted.weight / fitted.weight.dot(fitted.weight)
            if constraint.controller == "random":
                length = direction[row].norm()
                direction[row] = length * random_direction(hidden_size, seed=constraint.seed, layer=layer)
            strength[row] = _strength(plans[row], constraint)
            max_dose[row] = math.inf if constraint.max_dose is None else constraint.max_dose
            promised[row] = constraint.promised
    slabs = Slabs(weight, bias, low, high, direction, strength, max_dose, promised)
    return slabs.map(lambda value: value.unsqueeze(1))


def _joint(
    plans: Sequence[Plan | None],
    acting: Sequence[list[tuple[int, Constraint]]],
    layer: int,
    *,
    hidden_size: int,
    slots: int,
) -> JointSlabs:
    rows = len(plans)
    weight = torch.zeros(rows, slots, hidden_size)
    bias, low, high = (
        torch.zeros(rows, slots),
        torch.full((rows, slots), -math.inf),
        torch.full((rows, slots), math.inf),
    )
    strength, max_dose = torch.ones(rows), torch.full((rows,), math.inf)
    promised, placebo = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, hidden_size)
    for row, found in enumerate(acting):
        plan = plans[row]
        for slot, constraint in found:
            fitted = constraint.probe.at(layer)
            weight[row, slot], bias[row, slot] = fitted.weight, fitted.bias
            assert plan is not None
            low[row, slot], high[row, slot] = _inward(plan.interval(layer, slot))
            strength[row] = min(float(strength[row]), _strength(plan, constraint))
            max_dose[row] = min(float(max_dose[row]), math.inf if constraint.max_dose is None else constraint.max_dose)
            promised[row] &= constraint.promised
            if constraint.controller == "random":
                placebo[row] = random_direction(hidden_size, seed=constraint.seed, layer=layer)
    slabs = joint_slabs(
        weight, bias, low, high, strength=strength, max_dose=max_dose, promised=promised, placebo=placebo
    )
    return slabs.map(lambda value: value.unsqueeze(1))


def _inward(interval: tuple[float, float]) -> tuple[float, float]:
    """The widest float32 interval inside a float64 one: rounding must not loosen a bound."""
    low, high = (torch.tensor(bound, dtype=torch.float32) for bound in interval)
    if float(low) < interval[0]:
        low = torch.nextafter(low, torch.tensor(math.inf))
    if float(high) > interval[1]:
        high = torch.nextafter(high, torch.tensor(-math.inf))
    return float(low), float(high)


def _strength(plan: Plan | None, constraint: Constraint) -> float:
    """A monitored plan reads with strength 0: it measures and moves nothing."""
    return constraint.strength if plan is not None and plan.mode == "enforce" else 0.0
