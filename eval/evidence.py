"""From the records of a run to the evidence that `eval.claim` judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.claim import Aim, Evidence, Measure
from eval.degenerate import degenerate
from eval.metrics import steered
from eval.metrics.scores import THRESHOLD, Side
from eval.paired import compare_means, compare_rates
from eval.record import PromptKey, Record, by_prompt, scores_of
from eval.statistics import Paired
from eval.summary import text_figures
from steering.errors import InvalidRequest
from steering.manifest import Manifest
from steering.scorers import Relation, ScorerCard, relate


@dataclass(frozen=True)
class Question:
    """What is asked of every arm."""

    judge: ScorerCard
    aim: Aim
    """Where steering is to move the hits or the mean"""
    what: str
    """What a hit is: "toxic" """
    measure: Measure = "rate"
    threshold: float = THRESHOLD
    side: Side = "above"


def gather(
    records: Mapping[str, Sequence[Record]],
    placebos: Mapping[str, str | None],
    questions: Sequence[Question],
    *,
    manifests: Mapping[str, Sequence[Manifest]],
    unsteered: str = "none",
) -> list[Evidence]:
    """Evidence on each arm of `placebos` (arm -> its placebo, None without one) by each question: the whole grid.

    `manifests` holds those of the probes of each arm. Raises InvalidRequest when an arm is not among the records, or
    has other prompts or samples than the unsteered one.
    """
    return [
        _ask(records, arm, placebo, question, manifests, unsteered)
        for question in questions
        for arm, placebo in placebos.items()
    ]


def _ask(
    records: Mapping[str, Sequence[Record]],
    arm: str,
    placebo: str | None,
    question: Question,
    manifests: Mapping[str, Sequence[Manifest]],
    unsteered: str,
) -> Evidence:
    name = question.judge.name
    mine, baseline = _arm(records, arm), _arm(records, unsteered)
    ties = [relate(question.judge, manifest) for manifest in manifests.get(arm, ())]
    return Evidence(
        arm=arm,
        judge=name,
        what=question.what,
        measure=question.measure,
        aim=question.aim,
        against_unsteered=_compare(mine, baseline, question),
        against_placebo=None if placebo is None else _compare(mine, _arm(records, placebo), question),
        degenerate=degenerate(text_figures(mine, name), text_figures(baseline, name)),
        relation=_all(ties),
        violations=_broken(mine),
    )


def _arm(records: Mapping[str, Sequence[Record]], name: str) -> Sequence[Record]:
    if name not in records:
        raise InvalidRequest(f"there is no arm '{name}' among the samples, only {', '.join(records)}", param="arms")
    return records[name]


def _compare(arm: Sequence[Record], control: Sequence[Record], question: Question) -> Paired:
    ours, theirs = _scores(arm, question), _scores(control, question)
    if question.measure == "rate":
        return compare_rates(ours, theirs, threshold=question.threshold, side=question.side)
    return compare_means(ours, theirs)


def _scores(records: Sequence[Record], question: Question) -> dict[PromptKey, list[float]]:
    return by_prompt(records, scores_of(records, question.judge.name))


def _broken(records: Sequence[Record]) -> int:
    """Violations of promised bounds."""
    return sum(
        probe.violations for probe in steered([record.steering for record in records]).values() if probe.promised
    )


def _all(ties: Sequence[Relation]) -> Relation:
    """Labellers first, so that the reason of a refusal is the first one."""
    ordered = sorted(ties, key=lambda tie: not tie.labelled)
    reasons = dict.fromkeys(reason for tie in ordered for reason in tie.reasons)
    return Relation(any(tie.labelled for tie in ties), tuple(reasons))
