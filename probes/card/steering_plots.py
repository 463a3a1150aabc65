"""The plots of what steering did to the text, and of how early a probe reads what is coming. Pure: data to figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.card.plots import layers_figure
from steering.manifest import Lookahead, Manifest, Screen, ScreenRow
from steering.page.theme import LIGHT, colour, label, marker

SINGLE = "single"


def singles(screen: Screen) -> list[ScreenRow]:
    """The rows that steered one layer alone, by layer."""
    return sorted((row for row in screen.rows if row.role == SINGLE), key=lambda row: row.layers)


def sets(screen: Screen) -> list[ScreenRow]:
    """The rows that steered anything else, in the order they were tried."""
    return [row for row in screen.rows if row.role != SINGLE]


def is_chosen(screen: Screen, row: ScreenRow) -> bool:
    """Whether this row's layers became the default."""
    return bool(screen.chosen) and sorted(row.layers) == sorted(screen.chosen)


def effect_by_layer(manifest: Manifest, screen: Screen) -> Figure:
    """Effect per nat of KL of every layer by itself, with its interval; hollow: its placebo."""
    figure, axes = layers_figure(manifest, height=3.8)
    rows = singles(screen)
    _effects(axes, [row.layers[0] for row in rows], rows, [row.layers[0] in screen.chosen for row in rows])
    axes.set_ylabel("effect per nat of KL")
    return _keyed(figure)


def effect_by_set(screen: Screen) -> Figure:
    """The same for the sets of layers, in the order they were tried; each names its role and how many layers."""
    rows = sets(screen)
    figure = Figure(figsize=(5.0, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False, axis="x")
    _effects(axes, list(range(len(rows))), rows, [is_chosen(screen, row) for row in rows])
    names = [
        f"{len(row.layers)}" if row.role == "growing" else label(f"{row.role} ({len(row.layers)})") for row in rows
    ]
    long = any(len(name) > 3 for name in names)
    axes.set_xticks(range(len(rows)), names, rotation=40 if long else 0, ha="right" if long else "center")
    axes.set(ylabel="effect per nat of KL", xlabel="layers in the set")
    return _keyed(figure)


def auroc_by_warning(lookahead: Lookahead) -> Figure:
    """AUROC for the coming window against tokens of warning, a line per read-out."""
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.subplots()
    table = dict(sorted(lookahead.auroc_by_warning.items()))
    for index, name in enumerate(read_outs(lookahead)):
        points = [(warning, found[name]) for warning, found in table.items() if name in found]
        axes.plot(*zip(*points, strict=True), marker=marker(index), color=colour(index), label=label(name))
    axes.axhline(0.5, color=LIGHT["muted"], linewidth=0.9, dashes=(5, 2), label="chance")
    axes.set(xlabel="tokens of warning", ylabel="AUROC for the coming window", xticks=list(table))
    return _keyed(figure)


def read_outs(lookahead: Lookahead) -> list[str]:
    """The names of the read-outs that were compared, in order."""
    return list(dict.fromkeys(name for found in lookahead.auroc_by_warning.values() for name in found))


def _effects(axes: Axes, at: Sequence[int], rows: Sequence[ScreenRow], chosen: Sequence[bool]) -> None:
    axes.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    placebo = [(x, row.placebo_effect / row.placebo_kl) for x, row in zip(at, rows, strict=True) if row.placebo_kl > 0]
    if placebo:
        axes.plot(
            *zip(*placebo, strict=True), "o", markerfacecolor=LIGHT["paper"], color=LIGHT["muted"], label="placebo"
        )
    for wanted, tone, legend in ((False, "blue", "steered"), (True, "rust", "steered, chosen")):
        mine = [(x, row) for x, row, taken in zip(at, rows, chosen, strict=True) if taken == wanted]
        if mine:
            values = [row.per_kl for _, row in mine]
            bars = [
                [max(0.0, row.per_kl - row.per_kl_interval[0]) for _, row in mine],
                [max(0.0, row.per_kl_interval[1] - row.per_kl) for _, row in mine],
            ]
            axes.errorbar(
                [x for x, _ in mine], values, yerr=bars, fmt="o", color=LIGHT[tone], elinewidth=0.9, label=legend
            )
    axes.set_ylim(*_window(rows, [value for _, value in placebo]))


def _window(rows: Sequence[ScreenRow], placebo: Sequence[float]) -> tuple[float, float]:
    """Every point is inside, and nine in ten ends of the bars; one very long bar must not flatten the rest."""
    ends = sorted(end for row in rows for end in row.per_kl_interval)
    spare = len(ends) // 20
    points = [row.per_kl for row in rows] + list(placebo) + ends[spare : len(ends) - spare] + [0.0]
    low, high = min(points), max(points)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _keyed(figure: Figure) -> Figure:
    figure.legend(loc="outside lower center", ncols=3)
    return figure
