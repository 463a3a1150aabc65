"""The state offsets of a batch: which rows carry which offset in the step that comes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steering.controllers.state_offset import StateEdit
from steering.plan import Plan


class StateEdits:
    """The constraints of `plans` that act on recurrent states, grouped by offset."""

    def __init__(self, plans: Sequence[Plan | None], layers: Sequence[int]) -> None:
        """`layers` are those of the tables, rising."""
        self._places = [
            (row, slot, layers.index(constraint.at_layers[0]), constraint)
            for row, plan in enumerate(plans)
            for slot, constraint in enumerate(plan.constraints if plan and plan.mode == "enforce" else ())
            if constraint.offset is not None
        ]

    def at(self, on: Tensor) -> list[StateEdit]:
        """The edits of a step whose tokens are steered where `on` (layers, slots, rows, 1) says."""
        edits = []
        for row, slot, index, constraint in self._places:
            assert constraint.offset is not None
            share = on[index, slot, row].float() * constraint.strength
            edits.append(StateEdit(constraint.offset, torch.tensor([row]), share))
        return edits
