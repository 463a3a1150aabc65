"""From plans to tensors, once per batch composition: what each layer applies.

At each layer, rows with one bound share one `Slabs`, rows with several one `JointSlabs`, and rows that follow another
rule one `Group` per rule, so that what happens to a row follows from its own plan and never from its neighbours'. Rows
without a constraint pass bit-exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steering.changes import Change, Elsewhere, Group, JointChange, RuleChange, SlabChange
from steering.constraint import Constraint, Reading, inward
from steering.controllers.random import random_direction
from steering.joint import JointSlabs, joint_slabs
from steering.metric import Metric
from steering.plan import Plan
from steering.slab import Slabs

Acting = list[tuple[int, Constraint]]
"""The constraints of one row at one layer, with their slots."""


@dataclass(frozen=True, eq=False)
class LayerWork:
    """What the batch does at one layer; row tensors have an axis of 1 that broadcasts over the tokens of a pass."""

    single: Slabs
    """Of all rows; free for those that have no bound of their own, or several"""
    joint: JointSlabs | None
    """Of the rows with several bounds here, in the order of `rows`; None when there are none"""
    rows: tuple[int, ...]
    """Which rows those are"""
    place: Tensor
    """(n,) int64: the same, to index with"""
    every: Tensor
    """(rows,) int64: 0, 1, 2, ..."""
    alone: Tensor
    """(rows, 1) bool: the rows that `single` holds"""
    groups: tuple[Group, ...]
    """The rows that follow a rule without bounds, or a placebo"""
    acting: tuple[Acting, ...]
    """What this was made from, row by row"""
    verified: bool
    """Whether any row is under a promise here"""

    def to(self, device: torch.device) -> LayerWork:
        """The same on another device."""

        def move(value: Tensor) -> Tensor:
            return value.to(device)

        return replace(
            self,
            single=self.single.map(move),
            joint=self.joint and self.joint.map(move),
            place=move(self.place),
            every=move(self.every),
            alone=move(self.alone),
            groups=tuple(group.to(device) for group in self.groups),
        )


class Compiler:
    """Compiles the layers of one batch."""

    def __init__(self, plans: Sequence[Plan | None], *, hidden_size: int, slots: int) -> None:
        self._plans = plans
        self._hidden_size = hidden_size
        self._slots = slots
        self._zeros = torch.zeros(hidden_size)

    def layer(self, layer: int) -> LayerWork:
        """The work of the batch at one layer, on the host."""
        acting = [plan.at(layer) if plan else [] for plan in self._plans]
        grouped: dict[object, list[int]] = {}
        for row, found in enumerate(acting):
            if found and not _verified(found):
                grouped.setdefault(self._key(found), []).append(row)
        alone = [found if len(found) == 1 and _verified(found) else [] for found in acting]
        rows = tuple(row for row, found in enumerate(acting) if len(found) > 1 and _verified(found))
        return LayerWork(
            single=self._single(range(len(acting)), alone, [layer] * len(acting)),
            joint=self._joint(rows, [acting[row] for row in rows], layer) if rows else None,
            rows=rows,
            place=torch.tensor(rows, dtype=torch.long),
            every=torch.arange(len(acting)),
            alone=torch.tensor([[bool(found)] for found in alone]),
            verified=bool(rows) or any(alone),
            groups=tuple(self._group(tuple(which), acting, layer) for which in grouped.values()),
            acting=tuple(acting),
        )

    def alone(self, row: int) -> Slabs | None:
        """The slabs of one row, its layers in the place of rows; None unless one verified slab acts at each of them."""
        plan = self._plans[row]
        acting = [plan.at(layer) for layer in plan.layers] if plan else []
        if plan is None or not all(len(found) == 1 and _verified(found) for found in acting):
            return None
        return self._single([row] * len(acting), acting, plan.layers)

    def _single(self, rows: Sequence[int], acting: Sequence[Acting], layers: Sequence[int]) -> Slabs:
        """One slab for each of `rows`; free where nothing acts. Several tensors for all, not several for each row."""
        nothing = Reading(self._zeros, 0.0, self._zeros, -math.inf, math.inf)
        read = [found[0][1].reading(layer) if found else nothing for found, layer in zip(acting, layers, strict=True)]
        weight, bias, direction, low, high = zip(*read, strict=True)
        slabs = Slabs(
            weight=torch.stack(weight),
            bias=torch.tensor(bias),
            low=torch.tensor(low),
            high=torch.tensor(high),
            direction=torch.stack(direction),
            strength=torch.tensor([self._strength(row, found) for row, found in zip(rows, acting, strict=True)]),
            max_dose=torch.tensor([_budget(found) for found in acting]),
            promised=torch.tensor([_exact(found) for found in acting]),
        )
        return slabs.map(lambda value: value.unsqueeze(1))

    def _joint(self, rows: Sequence[int], acting: Sequence[Acting], layer: int) -> JointSlabs:
        weight, bias, low, high = self._readers(rows, acting, layer)
        soft = torch.zeros(len(rows), self._slots, dtype=torch.bool)
        for at, (row, found) in enumerate(zip(rows, acting, strict=True)):
            plan = self._plans[row]
            assert plan is not None
            soft[at, [slot for slot, _ in found if plan.gave_way(layer, slot)]] = True
        shared = {
            "soft": soft,
            "strength": torch.tensor([self._strength(row, found) for row, found in zip(rows, acting, strict=True)]),
            "max_dose": torch.tensor([_budget(found) for found in acting]),
            "promised": torch.tensor([_exact(found) for found in acting]),
        }
        slabs = joint_slabs(weight, bias, low, high, **shared)
        whitened = [at for at, found in enumerate(acting) if found[0][1].metric != "euclidean"]
        if whitened:
            lifted = weight.clone()
            for at in whitened:
                lifted[at, [slot for slot, _ in acting[at]]] = _lift(acting[at], layer)
            here, other = torch.tensor(whitened), joint_slabs(weight, bias, low, high, lifted=lifted, **shared)
            slabs = JointSlabs(
                **{name: mine.index_copy(0, here, vars(other)[name][here]) for name, mine in vars(slabs).items()}
            )
        return slabs.map(lambda value: value.unsqueeze(1))

    def _group(self, rows: tuple[int, ...], every: Sequence[Acting], layer: int) -> Group:
        acting = [every[row] for row in rows]
        weight, bias, low, high = self._readers(rows, acting, layer)
        first = acting[0][0][1]
        sham = first.controller == "random"
        units = [random_direction(self._hidden_size, seed=found[0][1].seed, layer=layer) for found in acting if sham]
        return Group(
            key=(rows, self._key(acting[0])),
            rows=rows,
            place=torch.tensor(rows),
            change=self._change(rows, acting, layer),
            weight=weight.unsqueeze(1),
            bias=bias.unsqueeze(1),
            low=low.unsqueeze(1),
            high=high.unsqueeze(1),
            unit=torch.stack(units).unsqueeze(1) if sham else None,
        )

    def _change(self, rows: tuple[int, ...], acting: Sequence[Acting], layer: int) -> Change:
        first = acting[0][0][1]
        if first.bounded and len(acting[0]) > 1:
            return JointChange(self._joint(rows, acting, layer))
        if first.bounded:
            return SlabChange(self._single(rows, acting, [layer] * len(rows)))
        strength = torch.tensor([[self._strength(row, found)] for row, found in zip(rows, acting, strict=True)])
        if first.rule == "state-offset":
            return Elsewhere(strength * first.settings.coefficient != 0)
        return RuleChange(first.free_rule, layer, strength, torch.tensor([[_budget(found)] for found in acting]))

    def _readers(
        self, rows: Sequence[int], acting: Sequence[Acting], layer: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights (n, slots, hidden_size), biases and logit bounds (n, slots) of all that acts."""
        shape = (len(rows), self._slots)
        weight, bias = torch.zeros(*shape, self._hidden_size), torch.zeros(shape)
        low, high = torch.full(shape, -math.inf), torch.full(shape, math.inf)
        for at, (row, found) in enumerate(zip(rows, acting, strict=True)):
            plan = self._plans[row]
            assert plan is not None
            for slot, constraint in found:
                read = constraint.reading(layer)
                gave = plan.gave_way(layer, slot)
                weight[at, slot], bias[at, slot] = read.weight, read.bias
                low[at, slot], high[at, slot] = inward(plan.interval(layer, slot)) if gave else (read.low, read.high)
        return weight, bias, low, high

    def _key(self, found: Acting) -> object:
        """Equal for rows that can be one group: the same rule on the same statistics, or the same kind of placebo."""
        first = found[0][1]
        rule = "slabs" if first.bounded else (first.rule, id(first.probe), first.at_layers, first.settings)
        return first.controller == "random", rule, len(found) > 1

    def _strength(self, row: int, found: Acting) -> float:
        """The smallest of those that meet. A monitored plan reads with strength 0: it measures and moves nothing."""
        plan = self._plans[row]
        if plan is None or plan.mode != "enforce":
            return 0.0
        return min((constraint.strength for _, constraint in found), default=0.0)


def _budget(found: Acting) -> float:
    """The smallest of those that meet."""
    return min((constraint.max_dose for _, constraint in found if constraint.max_dose is not None), default=math.inf)


def _exact(found: Acting) -> bool:
    """Whether the slabs are held by verified steps: of the rows under a promise, and of what a placebo shadows."""
    return all(constraint.strength == 1.0 for _, constraint in found)


def _verified(found: Acting) -> bool:
    return all(constraint.bounded and constraint.controller != "random" for _, constraint in found)


def _lift(found: Acting, layer: int) -> Tensor:
    """M w of each constraint, (K, hidden_size); where several meet, M is the mean of their metrics."""
    weight = torch.stack([constraint.probe.at(layer).weight for _, constraint in found])
    if found[0][1].metric == "euclidean":
        return weight
    return Metric.mean([Metric.of(constraint.probe, layer) for _, constraint in found]).lift(weight)
