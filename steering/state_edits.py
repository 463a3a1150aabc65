"""The state offsets of a batch: which rows carry which offset in the step that comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steering.constraint import Constraint
from steering.controllers.state_offset import StateEdit, StateOffset
from steering.plan import Plan


class StateEdits:
    """The constraints of `plans` that act on recurrent states, those with the same offset together."""

    def __init__(self, plans: Sequence[Plan | None], layers: Sequence[int], *, device: torch.device) -> None:
        """`layers` are those of the tables, rising."""
        found: dict[object, list[tuple[int, int, Constraint]]] = {}
        for row, plan in enumerate(plans):
            for slot, constraint in enumerate(plan.constraints if plan and plan.mode == "enforce" else ()):
                if constraint.offset is not None:
                    key = id(constraint.probe), constraint.at_layers, constraint.settings
                    found.setdefault(key, []).append((row, slot, constraint))
        self._groups = [_Group.of(members, layers, device) for members in found.values()]

    def at(self, on: Tensor) -> list[StateEdit]:
        """The edits of a step whose tokens are steered where `on` (layers, slots, rows, 1) says."""
        return [
            StateEdit(group.offset, group.rows, on[group.layer, group.slots, group.rows, 0] * group.strength)
            for group in self._groups
        ]


class _Group(NamedTuple):
    """Rows with one offset; tensors (n,)."""

    offset: StateOffset
    layer: int
    """The place of the offset's first layer in the tables; the policy is the same at all of them"""
    rows: Tensor
    slots: Tensor
    strength: Tensor

    @classmethod
    def of(cls, members: Sequence[tuple[int, int, Constraint]], layers: Sequence[int], device: torch.device) -> _Group:
        rows, slots, constraints = zip(*members, strict=True)
        offset = constraints[0].offset
        assert offset is not None
        strength = torch.tensor([constraint.strength for constraint in constraints], device=device)
        first = layers.index(constraints[0].at_layers[0])
        return cls(offset, first, torch.tensor(rows, device=device), torch.tensor(slots, device=device), strength)
