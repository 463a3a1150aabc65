"""One constraint of an arm with every default made explicit: for `steering`, for HTTP, and by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from eval.runner.layers import ProbeFacts
from steering.bounds import Bounds, Space
from steering.constraint import Constraint, MetricName, Prompt
from steering.controllers.base import Settings, Source
from steering.controllers.table import BOUNDED, USES, ControllerName, RuleName
from steering.probe import Probe, ranges


@dataclass(frozen=True)
class Held:
    """One constraint with nothing left open."""

    probe: str
    """`name@version`"""
    controller: ControllerName
    shadow: RuleName
    """Of `random`"""
    lower: float | None
    upper: float | None
    space: Space
    layers: tuple[int, ...]
    prompt: Prompt
    generation: tuple[int, int | None]
    strength: float
    max_dose: float | None
    metric: MetricName | None
    """None where the controller minimises nothing"""
    coefficient: float
    gains: tuple[float, float, float]
    source: Source
    piecewise: bool

    @property
    def rule(self) -> str:
        """What decides how far it moves."""
        return self.shadow if self.controller == "random" else self.controller

    def constraint(self, probe: Probe, *, seed: int) -> Constraint:
        """On a loaded probe. Raises as `steering.Constraint`."""
        bounded = self.rule in BOUNDED
        return Constraint(
            probe,
            Bounds(self.lower, self.upper, self.space) if bounded else None,
            layers=self.layers,
            controller=self.controller,
            prompt=self.prompt,
            generation=self.generation,
            strength=self.strength,
            max_dose=self.max_dose,
            seed=seed,
            metric=self.metric,
            shadow=self.shadow,
            settings=Settings(self.coefficient, self.gains, source=self.source, piecewise=self.piecewise),
        )

    def to_http(self) -> dict[str, Any]:
        """As a constraint of the HTTP field `steering`; what has no meaning for the controller is left out."""
        fields = asdict(self)
        if self.controller != "random":
            del fields["shadow"]
        if self.rule not in BOUNDED:
            for name in ("lower", "upper", "space"):
                del fields[name]
        stop = self.generation[1]
        fields["generation"] = "all" if self.generation == (0, None) else [self.generation[0], stop]
        fields |= {"layers": list(self.layers), "gains": list(self.gains)}
        return {name: value for name, value in fields.items() if value is not None}


def held_name(held: Held, facts: ProbeFacts, *, several: bool, asked: str | None) -> str:
    """`slab p<=0.1 whitened, layers 8-29`: what sets it apart, in the words of the README's tables."""
    uses = USES.get(held.controller, frozenset())
    parts: list[str] = [held.controller]
    if several or asked is not None:
        parts.append(held.probe.partition("@")[0])
    if held.controller in BOUNDED:
        mark = {"probability": "p{}{:g}", "logit": "logit{}{:g}", "percentile": "{}p{:g}"}[held.space]
        parts += [
            mark.format(sign, value) for sign, value in (("<=", held.upper), (">=", held.lower)) if value is not None
        ]
    if held.metric == "whitened":
        parts.append("whitened")
    if "source" in uses:
        parts.append(held.source)
    if held.piecewise:
        parts.append("piecewise")
    if "coefficient" in uses:
        parts.append(f"c={held.coefficient:.3g}")
    if "gains" in uses:
        parts.append("gains " + ",".join(f"{gain:g}" for gain in held.gains))
    if held.strength != 1.0:
        parts.append(f"strength {held.strength:g}")
    if held.max_dose is not None:
        parts.append(f"dose<={held.max_dose:g}")
    if held.layers != tuple(sorted(facts.default.layers)):
        parts.append(f"layers {ranges(held.layers)}")
    if held.prompt not in ("last", "none"):
        parts.append(f"prompt {held.prompt}")
    if held.generation != (0, None):
        parts.append(f"tokens {held.generation[0]}-{'' if held.generation[1] is None else held.generation[1]}")
    return " ".join(parts)
