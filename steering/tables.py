"""Where each constraint of a batch acts, by layer, slot and row. A constraint's slot is its place in its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steering.constraint import Constraint
from steering.errors import InvalidRequest
from steering.plan import Plan

FOREVER = 2**30

Cell = tuple[int, int, int, int, float, float, bool]
_NOWHERE: Cell = (FOREVER, 0, 0, 0, 1.0, 0.0, False)
"""Empty windows, the identity for calibration."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Tensors (layers, slots, rows); the four of the windows stay on the host."""

    start: Tensor
    """First generated offset"""
    stop: Tensor
    """End of the generated offsets"""
    prompt: Tensor
    """First prompt offset"""
    prompt_end: Tensor
    """End of the prompt offsets"""
    scale: Tensor
    """Calibration slope, float64"""
    shift: Tensor
    """Calibration intercept, float64"""
    gave: Tensor
    """bool: the bound had to give way, since the plan's slabs do not intersect at this layer"""

    def windows(self) -> Any:
        """(rows, layers, slots, 4) int64, for compiled code: begin, end of prompt offsets and of generated ones."""
        parts = (self.prompt, self.prompt_end, self.start, self.stop)
        return torch.stack(parts, dim=-1).permute(2, 0, 1, 3).contiguous().numpy()

    def on(self, offsets: Tensor) -> Tensor:
        """Which tokens are steered, (layers, slots, batch, seq) bool, for offsets (batch, seq) on the host."""
        start, stop, prompt, end = (
            table.unsqueeze(-1) for table in (self.start, self.stop, self.prompt, self.prompt_end)
        )
        return ((offsets >= prompt) & (offsets < end)) | ((offsets >= start) & (offsets < stop))


def steered_layers(plans: Sequence[Plan | None]) -> list[int]:
    """Every layer some plan steers, rising."""
    return sorted({layer for plan in plans if plan for layer in plan.layers})


def compile_tables(
    plans: Sequence[Plan | None],
    layers: Sequence[int],
    *,
    device: torch.device,
    prompt_tokens: Sequence[int] | None = None,
) -> Tables:
    """The tables of a batch; a slot that does not act somewhere has an empty window there.

    `prompt_tokens` is the length of each row's prompt. Raises InvalidRequest when a plan steers the first prompt token
    and it is not given.
    """
    slots = max((len(plan.constraints) for plan in plans if plan), default=0)
    cells: list[Cell] = [_NOWHERE] * (len(layers) * slots * len(plans))
    index_of = {layer: index for index, layer in enumerate(layers)}
    for row, plan in enumerate(plans):
        for slot, constraint in enumerate(plan.constraints if plan else ()):
            assert plan is not None
            begin, end = constraint.generation
            window = _prompt(constraint, prompt_tokens[row] if prompt_tokens else None)
            for layer in constraint.at_layers:
                cells[(index_of[layer] * slots + slot) * len(plans) + row] = (
                    begin,
                    FOREVER if end is None else end,
                    *window,
                    *constraint.probe.at(layer).calibration,
                    plan.gave_way(layer, slot),
                )
    table = torch.tensor(cells, dtype=torch.float64).reshape(len(layers), slots, len(plans), len(_NOWHERE))
    start, stop, prompt, prompt_end = (table[..., column].long() for column in range(4))
    scale, shift, gave = (table[..., column].to(device) for column in range(4, 7))
    return Tables(start, stop, prompt, prompt_end, scale, shift, gave > 0)


def _prompt(constraint: Constraint, tokens: int | None) -> tuple[int, int]:
    """The window of prompt offsets."""
    if constraint.prompt == "first":
        if tokens is None:
            raise InvalidRequest("prompt 'first' needs the length of the prompt; give prompt_tokens", param="prompt")
        return -tokens, 1 - tokens
    return {"none": 0, "last": -1, "all": -FOREVER}[constraint.prompt], 0
