"""The paper's figures beside ours, with what differs: a page from stored runs and `eval/published.json`.

The published figures were not measured here and are not comparable one to one: other models, another scorer, another n.
What they share is the protocol, so the shape can be compared: how much of the score goes, at what cost to the text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from eval.report.model import ArmReport, Judge, RunReport
from eval.report.verdict import standing_arms
from eval.report.words import ABSENT, estimate, number, points, share_estimate
from eval.runner.errors import SpecError
from steering.page.document import Block, Bullets, Code, Page, Paragraph, Section, Strong, Table, Words

NOT_MEASURED = "not measured"
TITLES = {"paper-toxicity": "Toxicity", "paper-sentiment": "Sentiment", "paper-language": "English to Spanish"}
SETTING = re.compile(r"LiSeCo ([\d.]+)")


def published() -> dict[str, Any]:
    """The stored figures of the paper."""
    found: dict[str, Any] = json.loads(files("eval").joinpath("published.json").read_text(encoding="utf-8"))
    return found


def paper_page(runs: Sequence[RunReport]) -> Page:
    """One section per task. Raises SpecError for a run of another spec, and for two of the same."""
    by_spec: dict[str, RunReport] = {}
    for run in runs:
        if run.name not in TITLES:
            raise SpecError(f"'{run.name}' is no spec of the paper; those are {', '.join(TITLES)}")
        if run.name in by_spec:
            raise SpecError(f"two runs of {run.name} were given; give one")
        by_spec[run.name] = run
    known = published()
    sections = [_task(spec, known["tasks"][spec], by_spec.get(spec)) for spec in TITLES]
    lede: Words = (
        f"{known['paper']} on models of seven and eight billion parameters, and its protocol on the embedded one. "
        f"The published figures are {known['source']}.",
    )
    return Page("The paper's figures beside ours", lede, (_differs(known, runs), *sections))


def _differs(known: Mapping[str, Any], runs: Iterable[RunReport]) -> Section:
    models = list(dict.fromkeys(str(run.identity["model"].get("id")) for run in runs)) or [NOT_MEASURED]
    items = (
        f"Models: theirs have 6.9 to 8 billion parameters, ours is {', '.join(models)}.",
        "Scorers: theirs are Twitter RoBERTa classifiers, ours those named in each table; no score of one is a score "
        "of the other, and a lower mean says nothing across the two columns.",
        "Fluency: theirs is naturalness from 1 to 5, rated by the authors; ours is perplexity under the unsteered "
        "model.",
        "n: theirs are 52 to 300 prompts. FINAL_EVAL chose half of them for a high unsteered score, so that any change "
        "of the text lowers it (regression to the mean), and has no placebo; ours chooses none and has one.",
        f"Protocol: {known['protocol']}. Ours: T = 1, nucleus 0.3, repetition penalty 1.2, 100 new tokens.",
        "Probes: theirs are fitted on the last token by gradient descent in 8-bit models, the sentiment one on other "
        "corpora; ours by regularised logistic regression and then calibrated, so p is not on the same scale.",
    )
    return Section("differs", "What differs", (Bullets(tuple((item,) for item in items)),))


def _task(spec: str, known: Mapping[str, Any], run: RunReport | None) -> Section:
    blocks: list[Block] = []
    if known["models"]:
        high = "" if run is None or not run.judges else f" In ours, high is {run.judges[0].card.higher_is}."
        legend = f"Theirs: {known['score']} / mean naturalness, 1 to 5; a dash where there is none.{high}"
        blocks.append(Paragraph((legend,)))
    blocks.append(_theirs(spec, known, run))
    if known.get("note"):
        blocks.append(Paragraph((known["note"],)))
    if run is None:
        command = f"tiller eval run {spec} --out runs/{spec} --data DATA"
        blocks.append(Paragraph((Strong(f"Ours: {NOT_MEASURED}."), " To measure it: ", Code(command))))
    else:
        blocks += _ours(run)
    return Section(spec, TITLES[spec], tuple(blocks))


def _theirs(spec: str, known: Mapping[str, Any], run: RunReport | None) -> Block:
    """Setting by setting; the last columns are ours, where an arm has the same setting."""
    models = known["models"]
    if not models:
        return Paragraph((f"The paper: {known['score']}.",))
    judge = None if run is None or not run.judges else run.judges[0]
    heads = [f"{model['name']}, {model['file']}{', n = ' + str(model['n']) if model['n'] else ''}" for model in models]
    named = judge.name if judge else "mean score"
    header = ("setting", *heads, f"ours: {named}", "ours: perplexity")
    rows = []
    for setting, cells in known["rows"].items():
        arm = None if run is None else _same(run, setting, lower=spec != "paper-toxicity")
        mine: tuple[Words, Words] = ((NOT_MEASURED,), (NOT_MEASURED,))
        if arm is not None and judge is not None:
            mine = (estimate(arm.summary.scores[judge.name].mean), estimate(arm.summary.perplexity, 1))
        rows.append(((setting,), *(_cell(cell) for cell in cells), *mine))
    return Table(header, tuple(rows), align="left", stacked=True)


def _cell(cell: Sequence[float | None] | None) -> Words:
    """Mean score / naturalness."""
    if cell is None:
        return (ABSENT,)
    mean, natural = cell
    return (f"{mean:.3f}{f' / {natural:.2f}' if natural is not None else ''}",)


def _same(run: RunReport, setting: str, *, lower: bool) -> ArmReport | None:
    """Our arm with a setting of the paper; P(negative) <= p is P(positive) >= 1 - p."""
    match = SETTING.fullmatch(setting)
    for arm in run.arms:
        if (setting == "none" and arm.kind == "unsteered") or (setting == "instruct" and arm.kind == "instruction"):
            return arm
        if match is None or arm.kind != "steered":
            continue
        bound = _paper_bound(run, arm, lower=lower)
        wanted = 1 - float(match[1]) if lower else float(match[1])
        if bound is not None and math.isclose(bound, wanted):
            return arm
    return None


def _paper_bound(run: RunReport, arm: ArmReport, *, lower: bool) -> float | None:
    """The bound of an arm that is the paper's method: one Euclidean slab at every block from one quarter up."""
    depth = int(run.identity["model"]["num_hidden_layers"])
    held = next(one for one in run.identity["arms"] if one["name"] == arm.name)["constraints"]
    method = [
        one
        for one in held
        if one["controller"] == "slab"
        and one["metric"] == "euclidean"
        and list(one["layers"]) == list(range(math.ceil(depth / 4), depth))
    ]
    if len(held) != 1 or not method:
        return None
    bound: float | None = method[0]["lower"] if lower else method[0]["upper"]
    return bound


def _ours(run: RunReport) -> list[Block]:
    blocks: list[Block] = []
    for judge in run.judges:
        header = (
            "arm", f"share by {judge.name}", "mean", "change", "its placebo", "perplexity", "rep-4", "text", "claim",
        )  # fmt: skip
        rows = tuple(_row(run, arm, judge) for arm in run.arms if arm.kind != "placebo")
        blocks += [
            Paragraph((Strong("Ours"), f", {run.unsteered.summary.prompts} prompts; {judge.card.higher_is} is high:")),
            Table(header, rows, align="left", stacked=True),
        ]
    return blocks


def _row(run: RunReport, arm: ArmReport, judge: Judge) -> tuple[Words, ...]:
    scores, evidence = arm.summary.scores[judge.name], arm.against.get((judge.name, "rate"))
    placebo = run.arm(arm.placebo).against[judge.name, "rate"] if arm.placebo else None
    stands = (arm.name, judge.name) in standing_arms(run)
    return (
        (arm.name,),
        share_estimate(scores.rate),
        estimate(scores.mean),
        (ABSENT,) if evidence is None else points(evidence.against_unsteered.change),
        (ABSENT,) if placebo is None else points(placebo.against_unsteered.change),
        estimate(arm.summary.perplexity, 1),
        (number(arm.summary.repetition),),
        (("degenerate" if arm.degenerate else "whole"),),
        (("stands" if stands else ABSENT if arm.kind != "steered" else "no"),),
    )
