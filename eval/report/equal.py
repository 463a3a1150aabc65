"""At equal fluency: the settings of each method as one path, and what it takes off for a text that costs a little more.

A method is what the arms of a run have in common but for how hard they push: controllers, metric, layers and the rest;
its settings are ordered by how far they moved the states (dose times share of tokens moved, over all probes). A setting
whose text is degenerate ends the path before it. The rival is the first method of the spec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.equal_fluency import BUDGET, Contest, Relief, Setting, reliefs
from eval.record import Record
from eval.report.model import ArmReport, Judge, RunReport
from eval.report.words import ABSENT, counted, difference, listed, number
from eval.runner.errors import SpecError
from eval.statistics import Estimate
from steering.page.document import Aside, Block, Bullets, Page, Paragraph, Section, Strong, Table, Words
from steering.probe import ranges

_PUSH = ("lower", "upper", "space", "strength", "max_dose", "coefficient", "gains")
"""How hard, rather than how."""
_SHAM = "placebo of {}"


@dataclass(frozen=True)
class Equal:
    """One judge's view of every method at the same cost."""

    judge: Judge
    budget: float
    methods: tuple[Relief, ...]
    contests: Mapping[str, Contest]
    """Method -> against the first one"""
    placebos: Mapping[str, Relief]
    """Method -> its placebo's path"""
    beyond: Mapping[str, Contest]
    """Method -> against its placebo"""
    numbers: Mapping[str, int]
    """Arm -> its number in the report"""


def at_equal_fluency(run: RunReport, judge: Judge, *, budget: float = BUDGET, against: str | None = None) -> Equal:
    """Raises SpecError for a judge of whom nothing is asked, InvalidRequest for a method that is not there."""
    if judge.aim is None:
        raise SpecError(f"nothing is asked of {judge.name}, so nothing is relief", param="judge")
    paths = methods(run)
    settings = {name: [_setting(run, arm.name, judge) for arm in path] for name, path in paths.items()}
    shams = {name: [_setting(run, sham, judge) for sham in _shams(run, path)] for name, path in paths.items()}
    shams = {name: path for name, path in shams.items() if path}
    rival = against or next(iter(settings))
    found, contests = reliefs(
        _setting(run, run.unsteered.name, judge),
        {**settings, **{_SHAM.format(name): path for name, path in shams.items()}},
        aim=judge.aim,
        budget=budget,
        contests=[
            *((name, rival) for name in settings if name != rival),
            *((name, _SHAM.format(name)) for name in shams),
        ],
    )
    known = {one.method: one for one in found}
    return Equal(
        judge,
        budget,
        tuple(known[name] for name in settings),
        {contest.method: contest for contest in contests if contest.against == rival},
        {name: known[_SHAM.format(name)] for name in shams},
        {contest.method: contest for contest in contests if contest.against != rival},
        {arm.name: arm.number for arm in run.arms},
    )


def methods(run: RunReport) -> dict[str, list[ArmReport]]:
    """Method -> its arms from the weakest to the strongest, as far as their text is whole."""
    return {name: path for name, path in _paths(run).items() if path}


def _paths(run: RunReport) -> dict[str, list[ArmReport]]:
    """The same with methods whose weakest arm is broken, which are empty."""
    kinds: dict[tuple[Any, ...], list[ArmReport]] = {}
    for arm in run.arms:
        if arm.kind == "steered":
            kinds.setdefault(tuple(map(_kind, _held(run, arm))), []).append(arm)
    found = {}
    for name, arms in zip(_names([list(kind) for kind in kinds]), kinds.values(), strict=True):
        ordered = sorted(arms, key=_push)
        end = next((at for at, arm in enumerate(ordered) if arm.degenerate), len(ordered))
        found[name] = ordered[:end]
    return found


def equal_views(run: RunReport, *, budget: float = BUDGET, against: str | None = None) -> list[Equal]:
    """Of every judge of whom something is asked; none where nothing is steered or no perplexity was measured."""
    if not methods(run) or math.isnan(run.unsteered.summary.perplexity.value):
        return []
    return [
        at_equal_fluency(run, judge, budget=budget, against=against) for judge in run.judges if judge.aim is not None
    ]


def equal_page(run: RunReport, *, budget: float = BUDGET, against: str | None = None) -> Page:
    """A page of that section alone. Raises SpecError where there is nothing to compare."""
    section = equal_section(run, budget=budget, against=against)
    if section is None:
        raise SpecError(
            "there is nothing to compare: that takes a steered arm whose text is whole, a judge whose aim is known, "
            "and the perplexities of a run with its model here"
        )
    lede: Words = (f"{run.name}, {counted(run.unsteered.summary.prompts, 'prompt')}.",)
    arms = Bullets(tuple((f"{arm.number} {arm.name}",) for arm in run.arms if arm.kind in ("unsteered", "steered")))
    return Page(f"{run.name} at equal fluency", lede, (section, Section("arms", "The arms", (arms,))))


def equal_section(run: RunReport, *, budget: float = BUDGET, against: str | None = None) -> Section | None:
    """One table per judge; nothing where there is nothing to compare."""
    blocks: list[Block] = []
    for found in equal_views(run, budget=budget, against=against):
        judge = found.judge
        was, cost = run.unsteered.summary, f"{100 * (found.budget - 1):.0f}%"
        said = (
            f"Unsteered, the mean score of {judge.name} is {number(was.scores[judge.name].mean.value, 3)} at "
            f"perplexity {number(was.perplexity.value, 1)}. Each method is pushed until its text costs {cost} more "
            f"than that, and {'this much is gone' if judge.aim == 'lower' else 'this much is gained'}:"
        )
        blocks += [Paragraph((said,)), equal_table(found)]
    if not blocks:
        return None
    lost = [name for name, path in _paths(run).items() if not path]
    if lost:
        blocks.append(Paragraph((Strong("Not in it"), f": {listed(lost)}; its weakest setting broke the text.")))
    blocks.append(
        Paragraph(
            (
                "A method's arms, ordered by how far they move the states, are a path from unsteered on; between two "
                "of them score and log perplexity are taken to be linear, and the path is followed to where it first "
                "costs as much, or to its last whole arm ('to its end': it was not pushed as far as it may). So no arm "
                "is picked for looking well. Its placebo is followed in the same way. Brackets are 95% bootstrap "
                "intervals over prompts, paired between methods.",
            )
        )
    )
    return Section("equal-fluency", "At equal fluency", tuple(blocks))


def equal_table(found: Equal) -> Table:
    """Method by method."""
    header = (
        "method", "relief", "of unsteered", "its placebo", "beyond its placebo", "less the first", "times the first",
        "pushed to",
    )  # fmt: skip
    rows = tuple(_row(found, one) for one in found.methods)
    return Table(header, rows, align="left", stacked=True)


def _row(found: Equal, one: Relief) -> tuple[Words, ...]:
    contest, sham = found.contests.get(one.method), found.placebos.get(one.method)
    times: Words = (ABSENT,)
    rival = next((other for other in found.methods if contest is not None and other.method == contest.against), None)
    if contest is not None and rival is not None and rival.relief.low > 0 and contest.ratio > 0:
        ratio = f"{contest.ratio:.1f} "
        times = (Strong(ratio) if contest.at_least(2) else ratio, *(() if contest.apart else (Aside("overlapping"),)))
    return (
        (one.method,),
        difference(one.relief),
        _share(one.share),
        (ABSENT,) if sham is None else difference(sham.relief),
        (ABSENT,) if sham is None else difference(found.beyond[one.method].difference),
        (ABSENT,) if contest is None else difference(contest.difference),
        times,
        (_place(found, one),),
    )


def _share(found: Estimate) -> Words:
    """Of the unsteered score; absent where some resampled prompts have none, for then it is the share of nothing."""
    if not all(map(math.isfinite, (found.value, found.low, found.high))):
        return (ABSENT,)
    return (f"{100 * found.value:.0f}% ", Aside(f"[{100 * found.low:.0f}, {100 * found.high:.0f}]"))


def _place(found: Equal, one: Relief) -> str:
    """Where the path ended, in the numbers of its arms."""
    below = int(one.stop.place)
    numbers = ("1", *(str(found.numbers[name]) for name in one.settings))
    if not one.stop.spent:
        return f"its end, {numbers[-1]}, perplexity {one.stop.perplexity:.1f}"
    part = one.stop.place - below
    return numbers[below] if part == 0 else f"{100 * part:.0f}% from {numbers[below]} to {numbers[below + 1]}"


def _held(run: RunReport, arm: ArmReport) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = next(one for one in run.identity["arms"] if one["name"] == arm.name)["constraints"]
    return found


def _kind(held: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What does not say how hard."""
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in held.items()}
    kept = tuple((name, value) for name, value in frozen.items() if name not in _PUSH)
    return (*kept, ("budgeted", held.get("max_dose") is not None))


def _names(kinds: Sequence[Sequence[tuple[tuple[str, Any], ...]]]) -> list[str]:
    """Controller and metric; layers too, and then whatever else, where those do not set methods apart."""
    shown = ("controller", "metric", "budgeted")
    for more in ((), ("layers",), ("layers", "probe", "prompt", "generation", "source", "piecewise", "shadow")):
        names = [" and ".join(_name(dict(one), (*shown, *more)) for one in kind) for kind in kinds]
        if len(set(names)) == len(names):
            break
    return names


def _name(held: Mapping[str, Any], shown: Sequence[str]) -> str:
    known = {name: held[name] for name in shown if held.get(name) not in (None, False)}
    said = {"layers": "layers {}", "budgeted": "within a budget"}
    return " ".join(
        said.get(name, "{}").format(ranges(value) if name == "layers" else value) for name, value in known.items()
    )


def _push(arm: ArmReport) -> float:
    return math.fsum(
        one.edited * one.mean_dose
        for one in arm.summary.steered.values()
        if one.edited and one.mean_dose == one.mean_dose
    )


def _shams(run: RunReport, path: Sequence[ArmReport]) -> list[str]:
    """Placebos of a path, as far as their text is whole."""
    found: list[str] = []
    for arm in path:
        if arm.placebo is not None:
            if run.arm(arm.placebo).degenerate:
                break
            found.append(arm.placebo)
    return found


def _setting(run: RunReport, arm: str, judge: Judge) -> Setting:
    records = run.records[arm]
    prompts: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        prompts.setdefault(record.key, []).append(record)
    width = max(map(len, prompts.values()))
    scores, perplexities = np.full((len(prompts), width), np.nan), np.full((len(prompts), width), np.nan)
    for row, mine in enumerate(prompts.values()):
        scores[row, : len(mine)] = [record.scores[judge.name] for record in mine]
        perplexities[row, : len(mine)] = [record.perplexity for record in mine]
    return Setting(arm, scores, perplexities)
