"""What steering did to one choice, in the words of the HTTP reply."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ProbeReport:
    """One constraint over all tokens it covered and all its layers.

    Probabilities are calibrated and taken over layers and tokens; of an imported probe that was never calibrated they
    are NaN. A token counts once, however many layers touched it.
    """

    max_pre: float
    """Highest probability before the edits."""
    max_post: float
    """Highest probability of the stored residual after them."""
    min_pre: float
    min_post: float
    tokens: int
    """Tokens read under the token policy."""
    edited: int
    """Tokens moved at one layer at least."""
    capped: int
    """Tokens that `max_dose` left outside at some layer; of a rule without bounds, those whose step it shortened."""
    infeasible: int
    """Tokens at which the plan's bounds contradict one another, and this one had to give way (least squares)."""
    violations: int
    """Tokens whose stored value is outside its bound at some layer, with no budget to blame."""
    mean_dose: float
    """Mean ||delta|| / ||resid|| over edited (token, layer) pairs; 0 when there are none."""
    max_dose: float
    promised: bool
    """Whether the bound was promised; false for strength < 1, the placebo and mode monitor."""


@dataclass(frozen=True)
class SteeringReport:
    """The `steering` field of a choice."""

    applied: bool
    """Whether any edit was allowed: false in mode monitor."""
    probes: dict[str, ProbeReport]
    layers: list[int]
    warnings: list[str] = field(default_factory=list)
    """What whoever reads the text should know of the probes, such as that one is marked `causal: false`."""
    finish: str = ""
    """Why generation ended, as in `finish_reason`."""
    tokens: list[dict[str, Any]] | None = field(default=None)
    """With report 'tokens', per token read: {"offset", "probes": {id: [probability before, after]}, "doses": {id: the
    largest over the layers}, "violated": [ids of those left outside]}. The probabilities are those of the lowest layer
    where only a lower bound is set, else of the highest."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, NaN as None; `tokens` only when it was asked for."""
        document = asdict(self)
        if self.tokens is None:
            del document["tokens"]
        for probe in document["probes"].values():
            for name, value in probe.items():
                if isinstance(value, float) and math.isnan(value):
                    probe[name] = None
        return document
