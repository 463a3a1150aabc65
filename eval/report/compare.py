"""Two runs against each other, prompt by prompt where they share them.

Comparable are arms of the same name, on prompts of the same set, id and text, decoded the same way with as many
samples, by judges of the same revision and threshold. What is not is refused with the reason, or left out and named:
a perplexity is one model's opinion, so between two models it is no comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from eval.figures import plain_values
from eval.metrics import rate
from eval.paired import compare_means, compare_medians, compare_rates
from eval.record import PromptKey, Record, by_prompt, scores_of
from eval.report.model import Judge, RunReport
from eval.report.words import ABSENT, counted, listed, number, p_value, points, share
from eval.report.words import difference as signed
from eval.runner.errors import SpecError
from eval.statistics import Paired, holm, median
from steering.page.document import Block, Bullets, Code, Page, Paragraph, Section, Strong, Table, Words

SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """Second run less first, of one arm by one judge."""

    arm: str
    judge: str
    shares: tuple[float, float]
    rate: Paired
    mean: Paired
    p_holm: float
    """Of the rate, over all arms and judges of the comparison"""
    perplexities: tuple[float, float]
    perplexity: Paired | None
    """None between two models"""


@dataclass(frozen=True)
class Comparison:
    """Two runs."""

    names: tuple[str, str]
    differences: tuple[Difference, ...]
    prompts: int
    notes: tuple[str, ...]
    """What differs, and what was left out"""


def compare_runs(one: RunReport, other: RunReport) -> Comparison:
    """The second less the first. Raises SpecError for what cannot be compared, with the reason."""
    _refuse(one, other)
    keys = _shared_prompts(one, other)
    judges, notes = _shared_judges(one, other)
    arms = [arm.name for arm in one.arms if arm.name in other.records]
    notes += _notes(one, other, keys)
    same_model = _model(one) == _model(other)
    found = [
        _difference(arm, judge, _of(one.records[arm], keys), _of(other.records[arm], keys), same_model=same_model)
        for judge in judges
        for arm in arms
    ]
    corrected = holm([difference.rate.p for difference in found])
    return Comparison(
        (one.name, other.name),
        tuple(replace(difference, p_holm=p) for difference, p in zip(found, corrected, strict=True)),
        len(keys),
        tuple(notes),
    )


def comparison_page(found: Comparison) -> Page:
    """In words and tables."""
    first, second = found.names
    beyond = [
        one for one in found.differences if one.p_holm < 0.05 and (one.rate.change.high < 0 or one.rate.change.low > 0)
    ]
    lead: Words = (
        (Strong("Nothing differs beyond chance."), " That is not evidence that nothing does.")
        if not beyond
        else (Strong("Beyond chance"), f": {listed([f'{one.arm} by {one.judge}' for one in beyond])}.")
    )
    blocks: list[Block] = [Paragraph(lead)]
    for judge in dict.fromkeys(one.judge for one in found.differences):
        rows = tuple(_row(one) for one in found.differences if one.judge == judge)
        header = (
            "arm", "share, A", "share, B", "change", "p", "p, Holm", "change of mean", "perplexity, A", "perplexity, B",
            "change",
        )  # fmt: skip
        blocks += [Paragraph((Strong(judge),)), Table(header, rows, align="left", stacked=True)]
    blocks.append(
        Paragraph(
            (
                "B less A, paired by prompt; shares in points, McNemar's exact p, Holm's correction over the rows of "
                "all judges; brackets are 95% bootstrap intervals over prompts. Two runs are no placebo for one "
                "another: whether steering did it is for the report of each to say.",
            )
        )
    )
    sections = [Section("comparison", "What differs", tuple(blocks))]
    if found.notes:
        sections.append(Section("notes", "To be kept in mind", (Bullets(tuple((note,) for note in found.notes)),)))
    lede: Words = ("A is ", Code(first), ", B is ", Code(second), f"; {counted(found.prompts, 'prompt')} in both.")
    return Page(f"{first} and {second}", lede, tuple(sections))


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Plain values."""
    values: dict[str, Any] = plain_values(
        {
            "runs": found.names,
            "prompts": found.prompts,
            "differences": [asdict(one) for one in found.differences],
            "notes": found.notes,
        }
    )
    return values


def _refuse(one: RunReport, other: RunReport) -> None:
    was, now = (dict(run.identity["decoding"]) for run in (one, other))
    changed = [
        f"{name} is {was.get(name)} in one and {now.get(name)} in the other"
        for name in dict.fromkeys([*was, *now])
        if name != "seed" and was.get(name) != now.get(name)
    ]
    if changed:
        raise SpecError(f"the runs were decoded differently: {'; '.join(changed)}; run one of them again")
    first, second = one.identity["samples"], other.identity["samples"]
    if first != second:
        raise SpecError(f"one run has {first} samples of each prompt and the other {second}; run one of them again")


def _shared_prompts(one: RunReport, other: RunReport) -> list[PromptKey]:
    shared = [key for key in one.prompts if key in other.prompts]
    if not shared:
        raise SpecError("the runs share no prompt (set and id), so there is nothing to pair")
    strangers = [key[1] for key in shared if one.prompts[key] != other.prompts[key]]
    if strangers:
        raise SpecError(
            f"{counted(len(strangers), 'prompt')} of the same id but another text, first "
            f"{', '.join(strangers[:SHOWN])}: the runs read different files"
        )
    return shared


def _shared_judges(one: RunReport, other: RunReport) -> tuple[list[Judge], list[str]]:
    theirs = {judge.name: judge for judge in other.judges}
    kept, notes = [], []
    for judge in one.judges:
        twin = theirs.get(judge.name)
        if twin is None:
            notes.append(f"{judge.name} judged A only; tiller eval rescore adds it to B.")
        elif twin.card.revision != judge.card.revision:
            notes.append(
                f"{judge.name} is {judge.card.revision} in A and {twin.card.revision} in B, so it is left out."
            )
        elif twin.threshold != judge.threshold:
            notes.append(f"{judge.name} counts from {judge.threshold:g} in A and {twin.threshold:g} in B; left out.")
        else:
            kept.append(judge)
    if not kept:
        raise SpecError(f"no judge scored both runs alike: {' '.join(notes) or 'there is none'}")
    return kept, notes


def _notes(one: RunReport, other: RunReport, keys: Sequence[PromptKey]) -> list[str]:
    notes = []
    for run, letter in ((one, "A"), (other, "B")):
        lone = len(run.prompts) - len(keys)
        if lone:
            notes.append(f"{counted(lone, 'prompt')} of {letter} only, left out.")
    for run, twin, letter in ((one, other, "A"), (other, one, "B")):
        names = [arm.name for arm in run.arms if arm.name not in twin.records]
        if names:
            notes.append(f"Arms of {letter} only, left out: {', '.join(names)}.")
    if _model(one) != _model(other):
        notes.append(f"A was written by {_model(one)}, B by {_model(other)}: their perplexities do not compare.")
    for what in ("probes", "version"):
        if one.identity[what] != other.identity[what]:
            notes.append(f"The {what} differ: {_named(one.identity[what])} in A, {_named(other.identity[what])} in B.")
    if one.identity["decoding"].get("seed") != other.identity["decoding"].get("seed"):
        notes.append("The seeds differ, so samples are paired by prompt alone.")
    return notes


def _difference(
    arm: str, judge: Judge, mine: Sequence[Record], theirs: Sequence[Record], *, same_model: bool
) -> Difference:
    a, b = (by_prompt(rows, scores_of(rows, judge.name)) for rows in (mine, theirs))
    before, after = (by_prompt(rows, [row.perplexity for row in rows]) for rows in (mine, theirs))
    shares = compare_rates(b, a, threshold=judge.threshold)
    return Difference(
        arm=arm,
        judge=judge.name,
        shares=(_share(mine, judge), _share(theirs, judge)),
        rate=shares,
        mean=compare_means(b, a),
        p_holm=shares.p,
        perplexities=(_median(mine), _median(theirs)),
        perplexity=compare_medians(after, before) if same_model else None,
    )


def _row(one: Difference) -> tuple[Words, ...]:
    return (
        (one.arm,),
        (share(one.shares[0]),),
        (share(one.shares[1]),),
        points(one.rate.change),
        (p_value(one.rate.p),),
        (p_value(one.p_holm),),
        signed(one.mean.change),
        (number(one.perplexities[0], 1),),
        (number(one.perplexities[1], 1),),
        (ABSENT,) if one.perplexity is None else signed(one.perplexity.change, 1),
    )


def _of(records: Sequence[Record], keys: Sequence[PromptKey]) -> list[Record]:
    wanted = set(keys)
    return [record for record in records if record.key in wanted]


def _share(records: Sequence[Record], judge: Judge) -> float:
    return rate(scores_of(records, judge.name), threshold=judge.threshold)


def _median(records: Sequence[Record]) -> float:
    known = [record.perplexity for record in records if not math.isnan(record.perplexity)]
    return median(np.asarray(known)) if known else math.nan


def _model(run: RunReport) -> str:
    model = run.identity["model"]
    return f"{model.get('id')} at {model.get('revision')}"


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {str(digest)[:8]}" for name, digest in value.items()) or "none"
    return str(value)
