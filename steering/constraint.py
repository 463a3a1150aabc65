"""One concept of a plan: which probe, which rule, which layers and tokens; checked before any tensor is made.

A *bounded* controller (slab, capping) holds the probe inside its bounds and promises it. The others of
`steering.controllers` move the stream by their own formula and promise nothing; the probe reads what became of it.
`random` is the placebo of either kind: it moves as far as the rule it shadows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from steering.bounds import Bounds
from steering.controllers.base import Controller, Settings
from steering.controllers.state_offset import StateOffset
from steering.controllers.table import BOUNDED, CONTROLLERS, USES, ControllerName, RuleName
from steering.errors import InvalidBounds, InvalidRequest, UnsupportedSteering
from steering.metric import Metric
from steering.probe import Probe
from steering.slab import narrowest

Prompt = Literal["none", "first", "last", "all"]
MetricName = Literal["euclidean", "whitened"]


MAX_COEFFICIENT = 1e6
"""No stream is so long that a larger one makes sense, and beyond it float32 norms would overflow."""


class Reading(NamedTuple):
    """A constraint at one layer, as a batch is put together from it."""

    weight: Tensor
    """(hidden_size,)"""
    bias: float
    direction: Tensor
    """(hidden_size,): M w / (w' M w), the change per unit of logit"""
    low: float
    """Of the bounds in logits, rounded inward to float32"""
    high: float


@dataclass(frozen=True, eq=False)
class Constraint:
    """One concept held inside its bounds, or moved by a rule, at some layers and tokens.

    Raises InvalidRequest for values outside their range or that the controller has no use for, UnknownProbe for a
    layer the probe has no read-out for, UnsupportedSteering when the probe lacks the statistics of the controller or
    metric, and InvalidBounds for bounds no finite residual can meet (both at the same infinity).
    """

    probe: Probe
    bounds: Bounds | None = None
    """Of a bounded controller; None for the others."""
    layers: tuple[int, ...] | None = None
    """0-based block outputs; None takes the probe's default layers."""
    controller: ControllerName = "slab"
    prompt: Prompt = "last"
    """Which prompt tokens: `first` is that of ActAdd, `last` that of the LiSeCo paper."""
    generation: tuple[int, int | None] = (0, None)
    """Generated tokens from `start` up to, not including, `stop`; None is no end."""
    strength: float = 1.0
    """Share of the change that is applied, in (0, 1]; below 1 the bound is not promised. Where bounds meet at a layer,
    the smallest holds for their one change."""
    max_dose: float | None = None
    """Cap on ||delta|| / ||resid||; rows it stops are counted as capped. Where bounds meet, the smallest holds."""
    seed: int = 0
    """Of the random direction; unused by the other controllers."""
    metric: MetricName | None = None
    """In which metric the change of a bounded controller is smallest; None takes the probe's default."""
    shadow: RuleName = "slab"
    """The rule whose steps `random` takes in another direction."""
    settings: Settings = field(default_factory=Settings)
    """What the formula of a controller without bounds leaves open."""
    _readings: dict[int, Reading] = field(default_factory=dict, init=False, repr=False)
    _representable: set[torch.dtype] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self._check_window()
        self._check_numbers()
        chosen = tuple(self.probe.manifest.default.layers) if self.layers is None else self.layers
        if not chosen or len(set(chosen)) != len(chosen):
            raise InvalidRequest(
                f"layers is {list(chosen)}; expected distinct block numbers, 'default' or 'all'", param="layers"
            )
        object.__setattr__(self, "layers", tuple(sorted(chosen)))
        if self.metric is None:
            object.__setattr__(self, "metric", self.probe.manifest.default.metric if self.bounded else "euclidean")
        self._check_controller()
        for layer in self.at_layers:
            low, high = self.interval(layer)
            if low == math.inf or high == -math.inf:
                raise InvalidBounds(
                    "the bounds ask for a certainty no finite residual has (lower 1 or upper 0); "
                    "give a probability strictly between",
                    param="upper" if high == -math.inf else "lower",
                )
            if self.metric == "whitened":
                self.probe.group("metric", layer)
        self._check_statistics()

    @property
    def at_layers(self) -> tuple[int, ...]:
        """The layers with the default resolved, rising."""
        assert self.layers is not None
        return self.layers

    @property
    def rule(self) -> RuleName | Literal["state-offset"]:
        """What decides how far the stream moves: the controller, or the one `random` shadows."""
        return self.shadow if self.controller == "random" else self.controller

    @property
    def bounded(self) -> bool:
        """Whether the rule holds bounds."""
        return self.rule in BOUNDED

    @property
    def lower_only(self) -> bool:
        """Whether the lowest layer decides, since only a lower bound is set."""
        return self.bounds is not None and self.bounds.upper is None

    @cached_property
    def offset(self) -> StateOffset | None:
        """The offset on the recurrent state; None for controllers of the residual stream."""
        if self.rule != "state-offset":
            return None
        return StateOffset.of(self.probe, self.at_layers, self.settings)

    @cached_property
    def free_rule(self) -> Controller:
        """The fitted rule of a controller without bounds."""
        return CONTROLLERS[self.rule].of(self.probe, self.at_layers, self.settings)

    @property
    def promised(self) -> bool:
        """Whether the bound is promised to hold on every steered token that is not capped."""
        return self.bounded and self.controller != "random" and self.strength == 1.0

    def interval(self, layer: int) -> tuple[float, float]:
        """The bounds as logits of one layer; without bounds the whole line."""
        fitted = self.probe.at(layer)
        if self.bounds is None:
            return -math.inf, math.inf
        return self.bounds.to_logit(calibration=fitted.calibration, quantiles=fitted.quantiles_negative)

    def reading(self, layer: int) -> Reading:
        """The read-out, direction and float32 bounds of one layer; made once."""
        if layer not in self._readings:
            fitted = self.probe.at(layer)
            weight = fitted.weight
            plain = self.metric == "euclidean"
            direction = weight / weight.dot(weight) if plain else Metric.of(self.probe, layer).direction(weight)
            self._readings[layer] = Reading(weight, fitted.bias, direction, *inward(self.interval(layer)))
        return self._readings[layer]

    def check_representable(self, dtype: torch.dtype) -> None:
        """Raise InvalidBounds when a slab is narrower than `dtype` can hit at the norm of the stream."""
        if dtype in self._representable:
            return
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
        self._representable.add(dtype)

    def _check_window(self) -> None:
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

    def _check_numbers(self) -> None:
        if not 0.0 < self.strength <= 1.0:
            raise InvalidRequest(f"strength is {self.strength}; expected a number in (0, 1]", param="strength")
        if self.max_dose is not None and not 0.0 < self.max_dose < math.inf:
            raise InvalidRequest(
                f"max_dose is {self.max_dose}; expected a finite number above 0, or null for no cap", param="max_dose"
            )
        for name, numbers in (("coefficient", (self.settings.coefficient,)), ("gains", self.settings.gains)):
            if not all(abs(number) <= MAX_COEFFICIENT for number in numbers):
                raise InvalidRequest(
                    f"{name} is {', '.join(f'{number:g}' for number in numbers)}; expected at most "
                    f"{MAX_COEFFICIENT:g} in size",
                    param=name,
                )

    def _check_statistics(self) -> None:
        """That the probe carries what the rule is made from."""
        if self.rule == "state-offset":
            assert self.offset is not None
        elif not self.bounded:
            assert self.free_rule is not None

    def _check_controller(self) -> None:
        """Nothing a caller says is ignored: what the rule has no use for is refused."""
        if self.controller != "random" and self.shadow != "slab":
            raise InvalidRequest(f"shadow is for controller 'random', not '{self.controller}'", param="shadow")
        if self.bounded and self.bounds is None:
            raise InvalidBounds(f"controller '{self.rule}' holds bounds; give lower or upper", param="upper")
        if not self.bounded and self.bounds is not None:
            raise InvalidBounds(
                f"controller '{self.rule}' holds no bounds; leave out lower and upper, or use 'slab'",
                param="lower" if self.bounds.upper is None else "upper",
            )
        if not self.bounded and self.metric != "euclidean":
            raise UnsupportedSteering(
                f"controller '{self.rule}' minimises nothing, so it has no metric; leave metric out", param="metric"
            )
        if self.bounds is not None and self.bounds.space != "logit" and not self.probe.manifest.calibrated:
            raise UnsupportedSteering(
                f"probe {self.probe.id} was imported and never calibrated, so a {self.bounds.space} has no meaning for "
                "it; give bounds in space 'logit', or use a controller that needs a direction only (additive, ablate)",
                param="space",
            )
        if self.rule == "capping" and self.bounds is not None:
            one_sided = (self.bounds.lower is None) != (self.bounds.upper is None)
            if not one_sided or self.bounds.space != "percentile":
                raise InvalidBounds(
                    "capping has one threshold, a percentile of normal text; give lower or upper with space "
                    "'percentile', or use 'slab'",
                    param="space",
                )
        if self.rule == "state-offset" and (self.prompt != "none" or self.max_dose is not None):
            raise InvalidRequest(
                "a state offset acts between generated tokens and on no residual; say prompt 'none' and leave max_dose "
                "out",
                param="max_dose" if self.prompt == "none" else "prompt",
            )
        used = USES.get(self.rule, frozenset())
        for setting in fields(Settings):
            if setting.name not in used and getattr(self.settings, setting.name) != setting.default:
                raise InvalidRequest(
                    f"controller '{self.rule}' has no {setting.name}; leave it out", param=setting.name
                )


def inward(interval: tuple[float, float]) -> tuple[float, float]:
    """The widest float32 interval inside a float64 one: rounding must not loosen a bound."""
    low, high = (torch.tensor(bound, dtype=torch.float32) for bound in interval)
    if float(low) < interval[0]:
        low = torch.nextafter(low, torch.tensor(math.inf))
    if float(high) > interval[1]:
        high = torch.nextafter(high, torch.tensor(-math.inf))
    return float(low), float(high)
