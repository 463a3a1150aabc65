"""The arms of the quality table and what is kept of each sample: figures, never text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from steering import Bounds, Constraint, Plan, Probe

Kind = Literal["none", "slab", "random"]


@dataclass(frozen=True)
class Arm:
    """One way of writing the same continuations."""

    kind: Kind
    upper: float | None = None
    """Bound on the probe's calibrated probability; None in the arm `none`."""

    @property
    def name(self) -> str:
        return self.kind if self.upper is None else f"{self.kind} p<={self.upper:g}"

    def plan(self, probe: Probe, *, seed: int) -> Plan | None:
        """The plan of one request; `seed` picks the random direction of the placebo."""
        if self.kind == "none":
            return None
        constraint = Constraint(probe, Bounds(upper=self.upper), controller=self.kind, seed=seed)
        return Plan((constraint,))


def quality_arms(bounds: Sequence[float]) -> list[Arm]:
    """Unsteered, then the slab and its same-norm placebo at each bound."""
    return [Arm("none"), *(Arm("slab", p) for p in bounds), *(Arm("random", p) for p in bounds)]


@dataclass(frozen=True)
class Sample:
    """Figures of one continuation."""

    prompt: int
    """Index within its kind."""
    kind: str
    """`toxic` or `neutral` prompt"""
    score: float
    """Toxicity by the external scorer; NaN for a continuation without a word"""
    perplexity: float
    new_tokens: int
    tokens: int
    """Tokens read under the plan; 0 in the arm `none`"""
    edited: int
    violations: int
    mean_dose: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Sample:
        """The inverse of `to_json`."""
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in row.items()}
        return cls(**values)
