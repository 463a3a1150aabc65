"""All that a report says of a run, as values; the sections put it into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eval.claim import Aim, Evidence, Measure, Verdict
from eval.flow import Flow
from eval.metrics.scores import Side
from eval.record import Record
from eval.statistics import Estimate, Paired
from eval.summary import ArmSummary, ScoreSummary
from eval.validation import Validation
from steering.scorers import ScorerCard

Kind = Literal["unsteered", "instruction", "steered", "placebo"]


@dataclass(frozen=True)
class Judge:
    """One scorer and what is asked of it."""

    card: ScorerCard
    threshold: float
    aim: Aim | None
    """Where the arms want its score; None: it is not known, so nothing is claimed by it"""
    validations: tuple[Validation, ...]

    @property
    def name(self) -> str:
        """As in the column of the samples."""
        return self.card.name

    @property
    def bad(self) -> Side:
        """The side of the threshold that is unwanted."""
        return "below" if self.aim == "higher" else "above"


@dataclass(frozen=True)
class ArmReport:
    """What one arm wrote, against the unsteered one."""

    number: int
    """Its place in the tables and beside its mark in the plots"""
    name: str
    kind: Kind
    placebo: str | None
    """The name of its placebo"""
    summary: ArmSummary
    strata: Mapping[str, Mapping[str, ScoreSummary]]
    """Stratum -> judge -> scores; empty where there is one stratum or none"""
    against: Mapping[tuple[str, Measure], Evidence]
    """(judge, measure) -> evidence; empty for the unsteered arm"""
    perplexity_change: Paired
    flows: Mapping[str, Flow]
    degenerate: tuple[str, ...]
    """What left the band of the unsteered arm, by any judge"""
    kl: Estimate
    doses: tuple[float, ...]
    """Mean dose of every continuation in which something was moved"""
    broken: int
    """Violations of promised bounds"""


@dataclass(frozen=True)
class LayerReading:
    """Mean probability at one layer under one arm."""

    arm: str
    probe: str
    layer: int
    before: float
    after: float


@dataclass(frozen=True)
class RunReport:
    """One run."""

    identity: Mapping[str, Any]
    """As in `run.json`"""
    provenance: Mapping[str, Any]
    judges: tuple[Judge, ...]
    arms: tuple[ArmReport, ...]
    """The unsteered one first, each placebo after its arm"""
    verdicts: tuple[Verdict, ...]
    left_out: tuple[str, ...]
    layers: tuple[LayerReading, ...]
    unknown_probes: tuple[str, ...]
    """Whose manifest is not with the run"""
    records: Mapping[str, tuple[Record, ...]]
    prompts: Mapping[tuple[str, str], str]

    @property
    def name(self) -> str:
        """Of the spec."""
        return str(self.identity["spec"])

    @property
    def unsteered(self) -> ArmReport:
        """What all are compared with."""
        return self.arms[0]

    def arm(self, name: str) -> ArmReport:
        """By name; KeyError when there is none."""
        return {arm.name: arm for arm in self.arms}[name]

    def verdict(self, arm: str, judge: str, measure: Measure) -> Verdict | None:
        """Of one comparison; None where nothing was asked."""
        for verdict in self.verdicts:
            found = verdict.evidence
            if (found.arm, found.judge, found.measure) == (arm, judge, measure):
                return verdict
        return None
