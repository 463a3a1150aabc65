"""An arm of a study: one way of writing the same continuations.

It names a controller and its settings. The placebo of an arm that moves the residual stream is the same arm with
`placebo=True`: controller `random`, asked how far the arm's rule would go (`steering.changes`). `none`, `prompt` and
`state-offset` move no residual, so they have no placebo.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steering import Bounds, Constraint, Plan, Probe
from steering.constraint import MetricName
from steering.controllers.base import Settings
from steering.controllers.prompt import INSTRUCTIONS, instructed
from steering.controllers.table import USES, RuleName

ArmController = Literal["none", "prompt", RuleName, "state-offset"]


@dataclass(frozen=True)
class Arm:
    """One way of writing the same continuations."""

    controller: ArmController
    bounds: Bounds | None = None
    """Of slab and capping"""
    settings: Settings = field(default_factory=Settings)
    strength: float = 1.0
    instruction: str | None = None
    """Of `prompt`: its key in `steering.controllers.prompt.INSTRUCTIONS`"""
    metric: MetricName = "euclidean"
    """Of slab and capping"""
    placebo: bool = False

    @property
    def name(self) -> str:
        """`slab p<=0.1`, `additive c=2`; its placebo `random p<=0.1`, `random as additive c=2`."""
        parts = [self.controller, *self._details()]
        if not self.placebo:
            return " ".join(parts)
        return " ".join(["random", *parts[1:]] if self.controller == "slab" else ["random as", *parts])

    @property
    def file_name(self) -> str:
        """Where its samples are kept."""
        return re.sub(r"[^\w.+-]+", "-", self.name.replace(" p<=", "-")).strip("-") + ".jsonl"

    @property
    def sham(self) -> Arm | None:
        """Its same-norm placebo; None when it moves no residual."""
        if self.placebo or self.controller in ("none", "prompt", "state-offset"):
            return None
        return replace(self, placebo=True)

    def prompt(self, text: str, tokenizer: Any) -> str | tuple[int, ...]:
        """What the model is given for the prompt `text`."""
        if self.instruction is None:
            return text
        return instructed(text, INSTRUCTIONS[self.instruction], tokenizer=tokenizer)

    def plan(self, probe: Probe, *, seed: int) -> Plan | None:
        """The plan of one request; `seed` picks the placebo's direction. None when nothing is steered.

        Raises UnsupportedSteering, naming what is missing, when `probe` lacks the statistics of the controller.
        """
        if self.controller == "none" or self.controller == "prompt":
            return None
        if self.placebo:
            assert self.controller != "state-offset", "it moves no residual"
            constraint = Constraint(
                probe,
                self.bounds,
                controller="random",
                shadow=self.controller,
                settings=self.settings,
                strength=self.strength,
                metric=self.metric,
                seed=seed,
            )
        else:
            constraint = Constraint(
                probe,
                self.bounds,
                controller=self.controller,
                settings=self.settings,
                strength=self.strength,
                metric=self.metric,
                prompt="none" if self.controller == "state-offset" else "last",
            )
        return Plan((constraint,))

    def _details(self) -> list[str]:
        """What sets it apart from other arms of its controller."""
        uses = USES.get(self.controller, frozenset())
        details = [] if self.instruction is None else [f"({self.instruction})"]
        if self.bounds is not None:
            mark = {"probability": "p{}{:g}", "logit": "logit{}{:g}", "percentile": "{}p{:g}"}[self.bounds.space]
            sides = (("<=", self.bounds.upper), (">=", self.bounds.lower))
            details += [mark.format(sign, value) for sign, value in sides if value is not None]
        if self.metric != "euclidean":
            details.append(self.metric)
        if "source" in uses:
            details.append(self.settings.source)
        if self.settings.piecewise:
            details.append("piecewise")
        if "coefficient" in uses:
            details.append(f"c={self.settings.coefficient:.3g}")
        if "gains" in uses:
            details.append("gains " + ",".join(f"{gain:g}" for gain in self.settings.gains))
        if self.strength != 1.0:
            details.append(f"strength {self.strength:g}")
        return details


def with_placebos(arms: Sequence[Arm]) -> list[Arm]:
    """`arms`, then the placebo of each that has one."""
    return [*arms, *(sham for sham in (arm.sham for arm in arms) if sham is not None)]


def quality_arms(bounds: Sequence[float], *, metric: MetricName = "euclidean") -> list[Arm]:
    """Unsteered, then the slab and its same-norm placebo at each upper bound in probability."""
    return with_placebos([Arm("none"), *(Arm("slab", Bounds(upper=bound), metric=metric) for bound in bounds)])
