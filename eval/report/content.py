"""What the report says, in order: the verdict first, then the arms, then everything they rest on."""

from __future__ import annotations

import re
from functools import partial

from eval.report.details import comparisons_section, flow_section, judges_section, scores_section
from eval.report.equal import equal_section
from eval.report.examples import examples_section
from eval.report.making import limits_section, provenance_section
from eval.report.model import RunReport
from eval.report.plots import doses, frontier, layer_map, moved
from eval.report.tables import arms_section, cost_section, text_section
from eval.report.verdict import verdict_section
from eval.report.words import counted
from steering.page.document import Code, Page, Picture, Pictures, Section, Words


def page_of(run: RunReport) -> Page:
    """The whole report."""
    sections = [
        verdict_section(run),
        arms_section(run),
        _frontier(run),
        equal_section(run),
        text_section(run),
        _layers(run),
        _doses(run),
        flow_section(run),
        scores_section(run),
        comparisons_section(run),
        cost_section(run),
        examples_section(run),
        judges_section(run),
        limits_section(run),
        provenance_section(run),
    ]
    return Page(f"Evaluation: {run.name}", _lede(run), tuple(section for section in sections if section is not None))


def _lede(run: RunReport) -> Words:
    arms = counted(len(run.arms), "arm")
    samples = int(run.identity["samples"])
    each = "one continuation each" if samples == 1 else f"{samples} continuations each"
    return (
        Code(str(run.identity["model"].get("id"))),
        f" wrote on {counted(run.unsteered.summary.prompts, 'prompt')} under {arms}, {each}, with the same seeds under "
        "every arm. What steering did to the text, beside what a push of the same size in a random direction did.",
    )


def _frontier(run: RunReport) -> Section | None:
    pictures = tuple(
        Picture(
            f"frontier-{_slug(judge.name)}.png",
            f"Mean score of {judge.name} against perplexity, all arms",
            (
                f"{judge.name}: {_wanted(judge.aim)}perplexity is best near the grey line, the unsteered one, not "
                "left of it. Numbers are those of the table, bars 95% intervals; a dashed line joins an arm with its "
                "placebo.",
            ),
            partial(frontier, run, judge),
        )
        for judge in run.judges
    )
    return Section("frontier", "Score against fluency", (Pictures(pictures),)) if pictures else None


def _wanted(aim: str | None) -> str:
    return {"lower": "lower is wanted; ", "higher": "higher is wanted; ", None: ""}[aim]


def _layers(run: RunReport) -> Section | None:
    probes = list(dict.fromkeys(reading.probe for reading in run.layers))
    if not probes:
        return None
    pictures = tuple(
        Picture(
            f"layers-{_slug(probe)}.png",
            f"Mean probability of {probe} at every layer before and after the step, by arm",
            (
                f"{probe}: mean probability over the tokens of eight continuations of each arm, read again under its "
                "plan. Empty is 0, full colour 1. A dot marks a layer that is steered. Above: what the layer hands on, "
                "moved by the steps below it already; below: what is stored.",
            ),
            partial(layer_map, run, probe),
        )
        for probe in probes
    )
    return Section("layers", "What the probe reads, layer by layer", (Pictures(pictures),))


def _doses(run: RunReport) -> Section | None:
    if not moved(run):
        return None
    picture = Picture(
        "doses.png",
        "Histogram of mean dose per continuation, by arm",
        ("Mean dose of each continuation over the tokens and layers that were moved; grey outline: the placebo.",),
        partial(doses, run),
    )
    return Section("doses", "How far the states were moved", (Pictures((picture,)),))


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)
