"""A steering plan: what one request asks for, checked against the probes it names, before any tensor is made.

Token policy. Each token of a row has an *offset*: -1 is the last prompt token, -2 the one before, 0 the first generated
token, and so on. A token is steered when it is read as input, so offset -1 shapes the first new token. `prompt` says
which prompt tokens are steered (none, first, last, all), `generation` which generated ones, as [start, stop). The cache
keeps what was edited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from steering.box_qp import MAX_CONSTRAINTS
from steering.constraint import Constraint
from steering.errors import InvalidBounds, InvalidRequest, UnsupportedSteering
from steering.joint import feasible_box, joint_slabs

Mode = Literal["enforce", "monitor"]
OnInfeasible = Literal["error", "least_squares"]

FAR = 4.0
"""Bounds whose nearest common point is this many mean lengths of the stream away contradict one another in practice."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All constraints of one request; those that meet at a layer are held there together (`steering.joint`).

    `mode="monitor"` reads every probe and edits nothing; its report counts tokens outside as violations.
    Whether bounds that meet contradict one another depends on the weights alone, so it is settled here:
    `on_infeasible="error"` raises InvalidBounds with the layer and the probes, `"least_squares"` lets each give way by
    its share of the smallest sum of squared distances, and the report counts those tokens as infeasible.
    """

    constraints: tuple[Constraint, ...]
    mode: Mode = "enforce"
    on_infeasible: OnInfeasible = "error"
    _given_way: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.constraints:
            raise InvalidRequest(
                "a plan without constraints steers nothing; give at least one, or mode 'off'", param="constraints"
            )
        if len({constraint.probe.id for constraint in self.constraints}) < len(self.constraints):
            raise InvalidRequest(
                "the same probe is constrained twice; put its bounds and layers into one constraint",
                param="constraints",
            )
        for layer in self.layers:
            meeting = self.at(layer)
            if len(meeting) > 1:
                self._check_meeting(layer, [constraint for _, constraint in meeting])
                self._settle(layer, meeting)

    @property
    def layers(self) -> list[int]:
        """Every layer some constraint acts at, rising."""
        return sorted({layer for constraint in self.constraints for layer in constraint.at_layers})

    def check_representable(self, dtype: torch.dtype) -> None:
        """Raise InvalidBounds when the plan promises a bound that a stream stored in `dtype` cannot be placed in."""
        for constraint in self.constraints if self.mode == "enforce" else ():
            constraint.check_representable(dtype)

    def check_model(self, model: nn.Module) -> None:
        """Raise UnsupportedSteering when the plan offsets recurrent states that `model` does not have."""
        for constraint in self.constraints:
            if constraint.offset is not None:
                constraint.offset.check(model)

    def at(self, layer: int) -> list[tuple[int, Constraint]]:
        """The constraints that act at `layer`, each with its slot: its place in the plan."""
        return [(slot, constraint) for slot, constraint in enumerate(self.constraints) if layer in constraint.at_layers]

    def interval(self, layer: int, slot: int) -> tuple[float, float]:
        """The logit bounds to hold: the constraint's own, or what is left of them where they contradict others."""
        return self._given_way.get((layer, slot)) or self.constraints[slot].interval(layer)

    def gave_way(self, layer: int, slot: int) -> bool:
        """Whether the constraint's own bounds cannot be met at this layer."""
        return (layer, slot) in self._given_way

    @property
    def warnings(self) -> list[str]:
        """What whoever reads the text should know of the probes, in sentences; nothing where nothing is edited."""
        named = [constraint.probe for constraint in self.constraints if self.mode == "enforce"]
        return [
            f"{probe.id} is marked causal: false: at no set of layers tried did steering it change the text more than "
            "a placebo of the same norm, so a bound that holds on the probe says nothing about what was written"
            for probe in named
            if probe.manifest.causal is False
        ]

    def promises(self, slot: int) -> bool:
        """Whether the bound of this constraint is promised to hold on every steered token that is not capped."""
        constraint = self.constraints[slot]
        return self.mode == "enforce" and all(
            other.promised and not self.gave_way(layer, slot)
            for layer in constraint.at_layers
            for _, other in self.at(layer)
        )

    def _check_meeting(self, layer: int, meeting: list[Constraint]) -> None:
        if len(meeting) > MAX_CONSTRAINTS:
            raise UnsupportedSteering(
                f"{len(meeting)} constraints meet at layer {layer}; at most {MAX_CONSTRAINTS} can be held together",
                param="constraints",
            )
        if not all(constraint.bounded for constraint in meeting):
            raise UnsupportedSteering(
                f"controllers {', '.join(constraint.controller for constraint in meeting)} meet at layer {layer}, and "
                "only bounds can be held together; give them disjoint layers",
                param="constraints",
            )
        for what, kinds in (
            ("bounds and their placebo", {constraint.controller == "random" for constraint in meeting}),
            ("different metrics", {constraint.metric for constraint in meeting}),
        ):
            if len(kinds) > 1:
                raise UnsupportedSteering(
                    f"{what} meet at layer {layer}, where one change has to serve all; give them disjoint layers",
                    param="constraints",
                )

    def _settle(self, layer: int, meeting: list[tuple[int, Constraint]]) -> None:
        fitted = [constraint.probe.at(layer) for _, constraint in meeting]
        bounds = torch.tensor([constraint.interval(layer) for _, constraint in meeting])
        slabs = joint_slabs(
            torch.stack([probe.weight for probe in fitted]),
            torch.tensor([probe.bias for probe in fitted]),
            bounds[:, 0],
            bounds[:, 1],
        )
        low, high, gave = feasible_box(slabs, reach=FAR * max(probe.resid_norm for probe in fitted))
        if self.on_infeasible == "error" and bool(gave.any()):
            names = " and ".join(c.probe.id for (_, c), gives in zip(meeting, gave.tolist(), strict=True) if gives)
            raise InvalidBounds(
                f"at layer {layer} the bounds of {names} contradict one another: no residual of any usual length meets "
                "them. Widen one, "
                "give them disjoint layers, or say on_infeasible 'least_squares'",
                param="constraints",
            )
        for index, (slot, _) in enumerate(meeting):
            if bool(gave[index]):
                self._given_way[layer, slot] = float(low[index]), float(high[index])
