"""The plots: score against perplexity, the probes' readings layer by layer, and how far the states were moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from eval.report.model import ArmReport, Judge, LayerReading, RunReport
from eval.statistics import Estimate
from steering.page.theme import LIGHT, SERIES, label, marker

COLUMNS = 3
CROWDED = 12
"""Arms beyond which a plot is larger, and placebos have neither a number nor bars: the tables have both."""
FAR = 3.0
"""Times the least perplexity beyond which its axis is logarithmic."""
_PLACES = (
    (5, 4, "left"), (-5, 4, "right"), (5, -10, "left"), (-5, -10, "right"), (0, 7, "center"), (0, -14, "center"),
    (11, -3, "left"), (-11, -3, "right"), (12, 11, "left"), (-12, 11, "right"), (12, -18, "left"), (-12, -18, "right"),
)  # fmt: skip
"""Where a number may stand beside its mark, in points, the best place first."""


def frontier(run: RunReport, judge: Judge) -> Figure:
    """Mean score against median perplexity with 95% intervals; numbers are those of the tables."""
    crowded = len(run.arms) > CROWDED
    figure = Figure(figsize=(8.4, 6.4) if crowded else (6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    families = list(dict.fromkeys(family(run, arm) for arm in run.arms if arm.kind == "steered"))
    drawn: set[str] = set()
    numbers: dict[tuple[float, float], str] = {}
    marks: list[tuple[float, float]] = []
    for arm in run.arms:
        x, y = arm.summary.perplexity, arm.summary.scores[judge.name].mean
        if math.isnan(x.value) or math.isnan(y.value):
            continue
        tone, mark, fill, name = _look(run, arm, families)
        faint = arm.kind == "placebo"
        if not (faint and crowded):
            _cross(axes, x, y, tone, faint=faint)
            numbers[x.value, y.value] = ", ".join(filter(None, (numbers.get((x.value, y.value)), str(arm.number))))
        legend = None if name in drawn else label(name)
        drawn.add(name)
        size = 9 if arm.kind == "unsteered" else 4 if faint and crowded else 6
        axes.plot([x.value], [y.value], mark, color=tone, markerfacecolor=fill, markersize=size, label=legend)
        marks.append((x.value, y.value))
        if arm.placebo:
            sham = run.arm(arm.placebo).summary
            ends = (sham.perplexity.value, sham.scores[judge.name].mean.value)
            axes.plot([x.value, ends[0]], [y.value, ends[1]], color=tone, linewidth=0.8, dashes=(2, 2))
    base = run.unsteered.summary
    axes.axhline(base.scores[judge.name].mean.value, color=LIGHT["muted"], linewidth=0.6)
    axes.axvline(base.perplexity.value, color=LIGHT["muted"], linewidth=0.6)
    axes.set(xlabel="perplexity of the continuation, median", ylabel=f"mean score of {label(judge.name)}")
    if marks and max(x for x, _ in marks) > FAR * min(x for x, _ in marks):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", ncols=COLUMNS)
    _number(figure, axes, numbers, marks)
    return figure


def _number(
    figure: Figure, axes: Axes, numbers: Mapping[tuple[float, float], str], marks: Sequence[tuple[float, float]]
) -> None:
    """Write each number beside its mark, where it covers the least of other numbers and marks."""
    figure.draw_without_rendering()  # only then is it known where anything is
    unit = figure.dpi / 72
    taken = [
        (x - 3 * unit, y - 3 * unit, x + 3 * unit, y + 3 * unit) for x, y in axes.transData.transform(marks or [(0, 0)])
    ]
    for (x, y), text in numbers.items():
        at = axes.transData.transform((x, y)).tolist()
        boxes = [_box(at, place, text, unit) for place in _PLACES]
        best = min(range(len(_PLACES)), key=lambda one: sum(_overlap(boxes[one], other) for other in taken))
        dx, dy, side = _PLACES[best]
        taken.append(boxes[best])
        axes.annotate(text, (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=8, ha=side)


def _box(at: Sequence[float], place: tuple[int, int, str], text: str, unit: float) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a text of 8 points, in pixels; digits are about 5 points wide."""
    dx, dy, side = place
    width = 5.2 * len(text)
    left = at[0] / unit + dx - {"left": 0.0, "center": width / 2, "right": width}[side]
    bottom = at[1] / unit + dy
    return left * unit, bottom * unit, (left + width) * unit, (bottom + 7) * unit


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


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
    axes.set_yticks(range(len(arms)), [_row_label(arm, arms) for arm in arms])
    axes.grid(visible=False)


def _row_label(arm: ArmReport, arms: Sequence[ArmReport]) -> str:
    """A placebo by the number of its arm, which stands above it."""
    of = next((one.number for one in arms if one.placebo == arm.name), None)
    return f"{arm.number} {label(arm.name)}" if of is None else f"{arm.number} placebo of {of}"
