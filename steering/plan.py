"""A steering plan: what one request asks for, checked against the probes it names, before any tensor is made.

Token policy. Each token of a row has an *offset*: -1 is the last prompt token, -2 the one before, 0 the first generated
token, and so on. A token is steered when it is read as input, so offset -1 shapes the first new token. `prompt` says
which prompt tokens are steered (none, last, all), `generation` which generated ones, as [start, stop). The cache keeps
what was edited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from steering.bounds import Bounds
from steering.box_qp import MAX_CONSTRAINTS
from steering.errors import InvalidBounds, InvalidRequest, UnsupportedSteering
from steering.joint import feasible_box, joint_slabs
from steering.probe import Probe
from steering.slab import narrowest

Prompt = Literal["none", "last", "all"]
ControllerName = Literal["slab", "random"]
Mode = Literal["enforce", "monitor"]
OnInfeasible = Literal["error", "least_squares"]

FOREVER = 2**30
PROMPT_START: dict[Prompt, int] = {"none": 0, "last": -1, "all": -FOREVER}


@dataclass(frozen=True, eq=False)
class Constraint:
    """One concept held inside its bounds at some layers and tokens.

    Raises InvalidRequest for values outside their range, UnknownProbe for a layer the probe has no read-out for, and
    InvalidBounds for bounds no finite residual can meet (both at the same infinity).
    """

    probe: Probe
    bounds: Bounds
    layers: tuple[int, ...] | None = None
    """0-based block outputs; None takes the probe's default layers."""
    controller: ControllerName = "slab"
    """`slab` projects; `random` moves as far as `slab` would, in a random direction: the placebo."""
    prompt: Prompt = "last"
    generation: tuple[int, int | None] = (0, None)
    """Generated tokens from `start` up to, not including, `stop`; None is no end."""
    strength: float = 1.0
    """Share of the change that is applied, in (0, 1]; below 1 the bound is not promised."""
    max_dose: float | None = None
    """Cap on ||delta|| / ||resid||; rows it stops are counted as capped."""
    seed: int = 0
    """Of the random direction; unused by `slab`."""

    def __post_init__(self) -> None:
        start, stop = self.generation
        if start < 0 or (stop is not None and stop < start):
            raise InvalidRequest(
                f"generation is [{start}, {stop}); expected 'all' or [start, stop) with 0 <= start <= stop",
                param="generation",
            )
        if self.prompt == "none" and start == stop:
            raise InvalidRequest(
                "prompt is 'none' and generation is empty, so no token would be steered; "
                "use mode 'off' if that is meant",
                param="generation",
            )
        if not 0.0 < self.strength <= 1.0:
            raise InvalidRequest(f"strength is {self.strength}; expected a number in (0, 1]", param="strength")
        if self.max_dose is not None and not 0.0 < self.max_dose < math.inf:
            raise InvalidRequest(
                f"max_dose is {self.max_dose}; expected a finite number above 0, or null for no cap", param="max_dose"
            )
        chosen = tuple(self.probe.manifest.default.layers) if self.layers is None else self.layers
        if not chosen or len(set(chosen)) != len(chosen):
            raise InvalidRequest(
                f"layers is {list(chosen)}; expected distinct block numbers, 'default' or 'all'", param="layers"
            )
        object.__setattr__(self, "layers", tuple(sorted(chosen)))
        for layer in self.at_layers:
            low, high = self.interval(layer)
            if low == math.inf or high == -math.inf:
                raise InvalidBounds(
                    "the bounds ask for a certainty no finite residual has (lower 1 or upper 0); "
                    "give a probability strictly between",
                    param="upper" if high == -math.inf else "lower",
                )

    @property
    def at_layers(self) -> tuple[int, ...]:
        """The layers with the default resolved, rising."""
        assert self.layers is not None
        return self.layers

    @property
    def promised(self) -> bool:
        """Whether the bound is promised to hold on every steered token that is not capped."""
        return self.controller == "slab" and self.strength == 1.0

    def interval(self, layer: int) -> tuple[float, float]:
        """The bounds as logits of one layer."""
        fitted = self.probe.at(layer)
        return self.bounds.to_logit(calibration=fitted.calibration, quantiles=fitted.quantiles_negative)

    def check_representable(self, dtype: torch.dtype) -> None:
        """Raise InvalidBounds when a slab is narrower than `dtype` can hit at the norm of the stream."""
        for layer in self.at_layers if self.promised else ():
            low, high = self.interval(layer)
            fitted = self.probe.at(layer)
            need = narrowest(
                weight_norm=float(fitted.weight.norm()),
                resid_norm=fitted.resid_norm,
                hidden_size=len(fitted.weight),
                reach=max(abs(low), abs(high)) + abs(fitted.bias),
                dtype=dtype,
            )
            if high - low < need:
                raise InvalidBounds(
                    f"at layer {layer} the bounds of {self.probe.id} are {high - low:.3g} logits apart, but a stream "
                    f"stored as {str(dtype).removeprefix('torch.')} can only be placed to within {need:.3g}; "
                    f"widen them{'' if dtype == torch.float32 else ' or serve with --dtype float32'}",
                    param="lower",
                )


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
                "the same probe is constrained twice; join its layers into one constraint", param="constraints"
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

    def at(self, layer: int) -> list[tuple[int, Constraint]]:
        """The constraints that act at `layer`, each with its slot: its place in the plan."""
        return [(slot, constraint) for slot, constraint in enumerate(self.constraints) if layer in constraint.at_layers]

    def interval(self, layer: int, slot: int) -> tuple[float, float]:
        """The logit bounds to hold: the constraint's own, or what is left of them where they contradict others."""
        return self._given_way.get((layer, slot)) or self.constraints[slot].interval(layer)

    def gave_way(self, layer: int, slot: int) -> bool:
        """Whether the constraint's own bounds cannot be met at this layer."""
        return (layer, slot) in self._given_way

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
        if len({constraint.controller for constraint in meeting}) > 1:
            raise UnsupportedSteering(
                f"controllers {', '.join(constraint.controller for constraint in meeting)} meet at layer {layer}, and "
                "only constraints of one controller are held together; give them disjoint layers",
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
        low, high, gave = feasible_box(slabs)
        if self.on_infeasible == "error" and bool(gave.any()):
            names = " and ".join(c.probe.id for (_, c), gives in zip(meeting, gave.tolist(), strict=True) if gives)
            raise InvalidBounds(
                f"at layer {layer} the bounds of {names} contradict one another: no residual meets both. Widen one, "
                "give them disjoint layers, or say on_infeasible 'least_squares'",
                param="constraints",
            )
        for index, (slot, _) in enumerate(meeting):
            if bool(gave[index]):
                self._given_way[layer, slot] = float(low[index]), float(high[index])
