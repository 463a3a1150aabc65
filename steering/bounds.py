"""From the bounds people speak (probability, logit, percentile of normal text) to logit bounds of one layer.

With the calibrated read-out P(concept) = sigmoid(a * logit + b), a > 0, a probability bound p is the logit bound

    logit_bound = (log p - log(1 - p) - b) / a

Sign trap: the form log(1/p - 1) seen in print is its negative and belongs to probes of the opposite polarity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from steering.errors import InvalidBounds, UnsupportedSteering

Space = Literal["probability", "logit", "percentile"]

_LIMITS: dict[Space, tuple[float, float]] = {
    "probability": (0.0, 1.0),
    "logit": (-math.inf, math.inf),
    "percentile": (0.0, 100.0),
}


@dataclass(frozen=True)
class Bounds:
    """The allowed interval of one concept, in the space its user thinks in; None leaves that side free.

    Raises InvalidBounds when both sides are free, when lower > upper, or for a value outside its space (NaN included).
    """

    lower: float | None = None
    upper: float | None = None
    space: Space = "probability"

    def __post_init__(self) -> None:
        smallest, largest = _LIMITS[self.space]
        for name, value in (("lower", self.lower), ("upper", self.upper)):
            if value is not None and not smallest <= value <= largest:
                raise InvalidBounds(
                    f"{name} is {value}, but a {self.space} lies in [{smallest:g}, {largest:g}]; "
                    "set 'space' to 'logit' if raw read-outs are meant",
                    param=name,
                )
        if self.lower is None and self.upper is None:
            raise InvalidBounds("neither lower nor upper is given; a constraint needs at least one", param="upper")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise InvalidBounds(f"lower {self.lower} is above upper {self.upper}; swap them", param="lower")

    def to_logit(self, *, calibration: tuple[float, float], quantiles: Tensor | None = None) -> tuple[float, float]:
        """The interval as logits of one layer, infinite where a side is free.

        `calibration` is that layer's (a, b); `quantiles` the 101 percentiles of its logit on normal (negative) text,
        needed for the space 'percentile' only. Raises UnsupportedSteering when they are needed and absent.
        """

        def convert(value: float | None, free: float) -> float:
            if value is None:
                return free
            if self.space == "probability":
                return probability_to_logit(value, calibration=calibration)
            if self.space == "percentile":
                return _percentile_to_logit(value, quantiles)
            return value

        return convert(self.lower, -math.inf), convert(self.upper, math.inf)


def probability_to_logit(probability: float, *, calibration: tuple[float, float] = (1.0, 0.0)) -> float:
    """The logit at which sigmoid(a * logit + b) equals `probability`; 0 and 1 give minus and plus infinity."""
    scale, shift = calibration
    if probability <= 0.0:
        return -math.inf
    if probability >= 1.0:
        return math.inf
    return (math.log(probability) - math.log1p(-probability) - shift) / scale


def logit_to_probability(logit: float, *, calibration: tuple[float, float] = (1.0, 0.0)) -> float:
    """P(concept) = sigmoid(a * logit + b), without overflow at either end; NaN stays NaN."""
    scale, shift = calibration
    value = scale * logit + shift
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    return math.exp(value) / (1.0 + math.exp(value))


def _percentile_to_logit(percentile: float, quantiles: Tensor | None) -> float:
    if quantiles is None:
        raise UnsupportedSteering(
            "this probe carries no quantiles of normal text, so a percentile has no meaning for it; "
            "give a probability or a logit, or retrain it with this release",
            param="space",
        )
    position = percentile / 100.0 * (len(quantiles) - 1)
    below = min(int(position), len(quantiles) - 2)
    low, high = float(quantiles[below]), float(quantiles[below + 1])
    return low + (position - below) * (high - low)
