"""When may a report say that an arm is better? The rule, and which part of it failed, in words.

A claim stands only if all of this holds:

    1. the paired 95% interval of the change against the unsteered arm is clear of zero, on the side that is aimed at
    2. its p value (exact McNemar for rates, sign flips for means) is below 0.05 after Holm's correction over the grid,
       that is over every arm and measure that was looked at, not only those that look well
    3. it beats its own same-norm placebo: that paired interval is clear of zero too, with p below 0.05
    4. the text is not degenerate: nothing of it left the band of the unsteered arm
    5. the judge did not label what the probe was fitted on

Weaker ties between judge and probe, samples left out and violations of a promised bound are caveats: they stand beside
a claim and do not forbid it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.statistics import Estimate, Paired, holm
from steering.scorers import Relation

ALPHA = 0.05

Aim = Literal["lower", "higher"]
Measure = Literal["rate", "mean"]


@dataclass(frozen=True)
class Evidence:
    """What was found of one arm by one judge."""

    arm: str
    judge: str
    """Name of the scorer"""
    what: str
    """What a hit or a high score is: "toxic" """
    measure: Measure
    aim: Aim
    against_unsteered: Paired
    against_placebo: Paired | None
    """None when the arm has no placebo"""
    degenerate: tuple[str, ...]
    """What left the band of the unsteered arm"""
    relation: Relation
    """Between the judge and the probes of the arm"""
    violations: int = 0
    """Of a promised bound"""


@dataclass(frozen=True)
class Verdict:
    """Whether the evidence carries a claim."""

    evidence: Evidence
    p_holm: float
    """Corrected over `tests` comparisons"""
    tests: int
    failed: tuple[str, ...]
    """Every condition that did not hold, in words; empty when the claim stands"""
    caveats: tuple[str, ...]

    @property
    def stands(self) -> bool:
        """Whether it may be said."""
        return not self.failed

    @property
    def claim(self) -> str | None:
        """The sentence for the first page; None when it may not be said."""
        if not self.stands:
            return None
        found, placebo = self.evidence, self.evidence.against_placebo
        assert placebo is not None, "an arm without a placebo has failed"
        return (
            f"{found.arm} makes the text {'less' if found.aim == 'lower' else 'more'} {found.what} by {found.judge}: "
            f"{_change(found, found.against_unsteered.change)} against unsteered (Holm p {_p(self.p_holm)} over "
            f"{self.tests} {'comparison' if self.tests == 1 else 'comparisons'}), "
            f"{_change(found, placebo.change)} against its placebo; {found.against_unsteered.prompts} prompts"
        )

    @property
    def words(self) -> str:
        """The claim, or what stands against it; one sentence without a full stop."""
        if self.claim is not None:
            return self.claim
        return f"{self.evidence.arm}: no claim by {self.evidence.judge}, {'; '.join(self.failed)}"


def judge(grid: Sequence[Evidence]) -> list[Verdict]:
    """A verdict on each piece of evidence; `grid` is everything that was looked at, for Holm's correction is over it.

    Placebos and the unsteered arm are no part of it: nothing is claimed of them.
    """
    corrected = holm([found.against_unsteered.p for found in grid])
    tests = sum(not math.isnan(p) for p in corrected)
    return [
        Verdict(found, p, tests, tuple(_failures(found, p, tests)), _caveats(found))
        for found, p in zip(grid, corrected, strict=True)
    ]


def _failures(found: Evidence, p: float, tests: int) -> list[str]:
    against, placebo = found.against_unsteered, found.against_placebo
    failed = []
    if not against.prompts or math.isnan(against.change.value):
        return ["no prompt has a score in both arms"]
    if not _clear(against, found.aim):
        failed.append(f"the change {_change(found, against.change)} is not clear of zero on the {found.aim} side")
    if not p < ALPHA:
        failed.append(f"p is {_p(p)} after Holm's correction over {tests}")
    if placebo is None:
        failed.append("there is no same-norm placebo to beat")
    elif not (_clear(placebo, found.aim) and placebo.p < ALPHA):
        failed.append(f"it does not beat its placebo ({_change(found, placebo.change)}, p {_p(placebo.p)})")
    if found.degenerate:
        failed.append(f"the text is degenerate ({', '.join(found.degenerate)})")
    if found.relation.labelled:
        failed.append(f"the judge is no witness ({found.relation.reasons[0]})")
    return failed


def _caveats(found: Evidence) -> tuple[str, ...]:
    left_out = found.against_unsteered.left_out
    ties = found.relation.reasons[1 if found.relation.labelled else 0 :]
    missing = [f"{left_out} pairs of samples have no score and are left out"] if left_out else []
    broken = [f"a promised bound was violated at {found.violations} tokens"] if found.violations else []
    return (*ties, *missing, *broken)


def _clear(found: Paired, aim: Aim) -> bool:
    return found.change.high < 0 if aim == "lower" else found.change.low > 0


def _change(found: Evidence, change: Estimate) -> str:
    if found.measure == "rate":
        return f"{100 * change.value:+.0f} points [{100 * change.low:+.0f}, {100 * change.high:+.0f}]"
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _p(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"
