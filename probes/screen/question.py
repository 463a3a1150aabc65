"""What a screen asks: everything that is held equal over its arms, and the plan of each arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from probes.errors import ScreenError
from steering.artefact import content_sha256
from steering.bounds import Bounds
from steering.constraint import Constraint, MetricName
from steering.identity import hash_json
from steering.models import LanguageModel
from steering.plan import Plan
from steering.probe import Probe
from steering.scorers.base import Scorer

TOP_P = 0.9
LEAD = 8
"""Tokens of a neutral text that stand for its prompt; the rest is read as if the model had written it."""

Kind = Literal["unsteered", "steered", "placebo"]
Layers = tuple[int, ...]


@dataclass(frozen=True)
class Arm:
    """One way of writing the same continuations; `layers` is empty for the unsteered one."""

    kind: Kind
    layers: Layers = ()


@dataclass(frozen=True, eq=False)
class Question:
    """What is held equal over the arms. Raises ScreenError for a band, which has no allowed side to move toward."""

    lm: LanguageModel
    probe: Probe
    bounds: Bounds
    metric: MetricName
    scorer: Scorer
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of held-out prompts, two or more each"""
    neutral: tuple[tuple[int, ...], ...]
    """Token ids of ordinary text, LEAD + new_tokens - 1 each"""
    new_tokens: int = 20
    seed: int = 0
    batch: int = 64

    def __post_init__(self) -> None:
        if (self.bounds.lower is None) == (self.bounds.upper is None):
            raise ScreenError(
                "the bounds are a band, which is kept from both sides, so an effect toward 'the allowed side' has no "
                "meaning; give --upper or --lower, not both",
                param="upper",
            )
        assert all(len(ids) == LEAD + self.new_tokens - 1 for ids in self.neutral)
        assert all(len(ids) > 1 for ids in self.prompts)

    @property
    def sign(self) -> int:
        """1 when a higher score is better (a lower bound), -1 when a lower one is."""
        return 1 if self.bounds.upper is None else -1

    def plan(self, arm: Arm, row: int) -> Plan | None:
        """The plan of one row; `row` picks the direction of its placebo."""
        if arm.kind == "unsteered":
            return None
        return Plan(
            (
                Constraint(
                    self.probe,
                    self.bounds,
                    layers=arm.layers,
                    controller="slab" if arm.kind == "steered" else "random",
                    metric=self.metric,
                    seed=self.seed + row,
                ),
            )
        )

    def describe(self) -> dict[str, Any]:
        """Everything the figures depend on, as plain values without text."""
        return {
            "model": self.lm.info.model_dump(),
            "probe": self.probe.id,
            "probe_sha256": content_sha256(self.probe),
            "bounds": [self.bounds.lower, self.bounds.upper, self.bounds.space],
            "metric": self.metric,
            "scorer": vars(self.scorer.card),
            "prompts": len(self.prompts),
            "prompts_sha256": self.prompts_sha256,
            "neutral": len(self.neutral),
            "neutral_sha256": hash_json(self.neutral),
            "decoding": {"new_tokens": self.new_tokens, "top_p": TOP_P, "draw": "Gumbel", "seed": self.seed},
            "batch": self.batch,
        }

    @property
    def prompts_sha256(self) -> str:
        """Over the token ids of the prompts, in order."""
        return hash_json(self.prompts)
