"""The plots: score against perplexity, the probes' readings layer by layer, and how far the states were moved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from eval.report.model import ArmReport, Judge, LayerReading, RunReport
from eval.statistics import Estimate
from steering.page.theme import LIGHT, SERIES, label, marker

COLUMNS = 3


def frontier(run: RunReport, judge: Judge) -> Figure:
    """Mean score against median perplexity with 95% intervals; numbers are those of the tables."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    families = list(dict.fromkeys(family(run, arm) for arm in run.arms if arm.kind == "steered"))
    drawn: set[str] = set()
    for arm in run.arms:
        x, y = arm.summary.perplexity, arm.summary.scores[judge.name].mean
        if math.isnan(x.value) or math.isnan(y.value):
            continue
        tone, mark, fill, name = _look(run, arm, families)
        _cross(axes, x, y, tone, faint=arm.kind == "placebo")
        legend = None if name in drawn else label(name)
        drawn.add(name)
        size = 9 if arm.kind == "unsteered" else 6
        axes.plot([x.value], [y.value], mark, color=tone, markerfacecolor=fill, markersize=size, label=legend)
        axes.annotate(str(arm.number), (x.value, y.value), xytext=(5, 4), textcoords="offset points", fontsize=8)
        if arm.placebo:
            sham = run.arm(arm.placebo).summary
            ends = (sham.perplexity.value, sham.scores[judge.name].mean.value)
            axes.plot([x.value, ends[0]], [y.value, ends[1]], color=tone, linewidth=0.8, dashes=(2, 2))
    base = run.unsteered.summary
    axes.axhline(base.scores[judge.name].mean.value, color=LIGHT["muted"], linewidth=0.6)
    axes.axvline(base.perplexity.value, color=LIGHT["muted"], linewidth=0.6)
    axes.set(xlabel="perplexity of the continuation, median", ylabel=f"mean score of {label(judge.name)}")
    figure.legend(loc="outside lower center", ncols=COLUMNS)
    return figure


def family(run: RunReport, arm: ArmReport) -> str:
    """What a series of the plot is: the controller, and its metric where it has one."""
    held = next(one for one in run.identity["arms"] if one["name"] == arm.name)["constraints"]
    names = dict.fromkeys(f"{one['controller']}{' ' + one['metric'] if one['metric'] else ''}" for one in held)
    return " and ".join(names)


def layer_map(run: RunReport, probe: str) -> Figure:
    """Arms by layers, before the step and after it; the fuller the colour the higher the mean probability."""
    rows = [reading for reading in run.layers if reading.probe == probe and not math.isnan(reading.after)]
    arms = [arm for arm in run.arms if any(reading.arm == arm.name for reading in rows)]
    layers = sorted({reading.layer for reading in rows})
    figure = Figure(figsize=(6.4, 1.5 + 0.44 * len(arms)), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, when in zip(panels, ("before", "after"), strict=True):
        _cells(axes, rows, arms, layers, when)
        axes.set_title(f"{when} the step at each layer", loc="left")
    panels[1].set(xlabel="layer")
    return figure


def doses(run: RunReport) -> Figure:
    """How far each arm moved the states, one mean per continuation; its placebo in grey."""
    arms = moved(run)
    columns = min(COLUMNS, len(arms))
    lines = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(6.4, 0.7 + 1.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False)
    high = max(max(arm.doses) for arm in run.arms if arm.doses)
    bins = np.linspace(0, high * 1.02 or 1.0, 25).tolist()
    for axes, arm in zip(panels.flat, arms, strict=False):
        sham = run.arm(arm.placebo).doses if arm.placebo else ()
        axes.hist(arm.doses, bins=bins, color=LIGHT["blue"], alpha=0.65)
        if sham:
            axes.hist(sham, bins=bins, histtype="step", color=LIGHT["muted"])
        axes.set_title(f"{arm.number} {label(arm.name)}", loc="left", fontsize=8)
        axes.grid(visible=False)
    for axes in list(panels.flat)[len(arms) :]:
        axes.set_visible(False)
    figure.supxlabel("dose: ||delta|| / ||resid||", fontsize=9)
    figure.supylabel("continuations", fontsize=9)
    return figure


def moved(run: RunReport) -> list[ArmReport]:
    """The steered arms that moved anything."""
    return [arm for arm in run.arms if arm.kind == "steered" and arm.doses]


def _look(run: RunReport, arm: ArmReport, families: Sequence[str]) -> tuple[str, str, str, str]:
    """Colour, mark, filling, name in the legend."""
    if arm.kind == "unsteered":
        return LIGHT["ink"], "*", LIGHT["ink"], "unsteered"
    if arm.kind == "instruction":
        return LIGHT["ink"], "X", LIGHT["ink"], "instruction"
    steered = arm if arm.kind == "steered" else next(one for one in run.arms if one.placebo == arm.name)
    at = families.index(family(run, steered))
    tone = LIGHT[SERIES[at % len(SERIES)]]
    if arm.kind == "placebo":
        return tone, marker(at), LIGHT["paper"], "hollow: placebo"
    return tone, marker(at), tone, families[at]


def _cross(axes: Axes, x: Estimate, y: Estimate, tone: str, *, faint: bool) -> None:
    for ends in (([x.low, x.high], [y.value, y.value]), ([x.value, x.value], [y.low, y.high])):
        axes.plot(*ends, color=tone, linewidth=0.8, alpha=0.35 if faint else 0.7)


def _cells(
    axes: Axes, rows: Sequence[LayerReading], arms: Sequence[ArmReport], layers: Sequence[int], when: str
) -> None:
    place = {arm.name: at for at, arm in enumerate(arms)}
    for reading in rows:
        value = reading.before if when == "before" else reading.after
        corner = (layers.index(reading.layer) - 0.5, place[reading.arm] - 0.46)
        axes.add_patch(Rectangle(corner, 1, 0.92, facecolor=LIGHT["rust"], alpha=value, linewidth=0))
        if when == "after" and reading.before != reading.after:
            axes.plot([layers.index(reading.layer)], [place[reading.arm]], ".", color=LIGHT["ink"], markersize=2.5)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    every = max(1, len(layers) // 12)
    axes.set_xticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    axes.set_yticks(range(len(arms)), [f"{arm.number} {label(arm.name)}" for arm in arms])
    axes.grid(visible=False)
