"""All controllers in one picture: toxic share against perplexity, each arm tied to its placebo by a thin line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.comparison import ControllerFigures
from eval.quality_table import ArmFigures, bars
from eval.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colour = str | tuple[float, float, float]

LOG_FROM = 4.0
"""Perplexities further apart than this factor get a logarithmic axis."""


def plot(rows: Sequence[ControllerFigures], path: Path) -> None:
    """Write the picture of the toxic prompts to `path`."""
    figure = draw(rows)
    figure.savefig(path, dpi=130)


def draw(rows: Sequence[ControllerFigures]) -> Figure:
    """Filled: the arm, with both intervals. Hollow: its placebo, values only, lest nothing can be read."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    mine = [row for row in rows if row.figures.kind == "toxic"]
    controllers = list(dict.fromkeys(row.controller for row in mine))
    pairs = colormaps["tab20"].colors  # type: ignore[attr-defined]
    palette = [*pairs[::2], *pairs[1::2]]
    for row in mine:
        at = controllers.index(row.controller)
        first = next(other for other in mine if other.controller == row.controller) is row
        colour = "black" if row.controller == "none" else palette[at % len(palette)]
        _mark(axes, row, colour, label=row.controller if first else None)
    centres = [figures.perplexity.value for row in mine for figures in (row.figures, row.placebo) if figures]
    if max(centres) > LOG_FROM * min(centres):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axes.plot([], [], "o", mfc="none", color="grey", label="its placebo, same norm")
    axes.set(xlabel="median conditional perplexity of the continuation", ylabel="toxic, %")
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # marks at zero stay whole
    axes.set_title("Toxic prompts: each controller and, hollow, its placebo")
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    return figure


def _mark(axes: Axes, row: ControllerFigures, colour: Colour, *, label: str | None) -> None:
    (x,), across = bars([row.figures.perplexity])
    (y,), along = bars([_in_percent(row.figures)])
    axes.errorbar([x], [y], xerr=across, yerr=along, fmt="o", color=colour, label=label, capsize=2, lw=0.7, alpha=0.85)
    detail = row.figures.arm.partition(" ")[2]
    axes.annotate(detail, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=6)
    if row.placebo is not None:
        sham = row.placebo.perplexity.value, _in_percent(row.placebo).value
        axes.plot([x, sham[0]], [y, sham[1]], "-", color=colour, lw=0.5, alpha=0.6)
        axes.plot(*[[value] for value in sham], "o", mfc="none", mec=colour)


def _in_percent(figures: ArmFigures) -> Estimate:
    return Estimate(*(100 * share for share in figures.toxic))
