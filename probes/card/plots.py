"""The plots of how well each layer reads its concept: AUROC, calibration error, reliability. Pure: data to figure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probes.card.model import Card
from probes.measure.baseline import LENGTH, NAME
from probes.measure.reliability import ReliabilityBin
from steering.manifest import LayerMetrics, LayerReport, Manifest
from steering.page.theme import LIGHT, colour, label, marker

PANELS = 9
"""As many layers as a reliability diagram shows."""


def measured(report: LayerReport) -> dict[str, LayerMetrics]:
    """Figures by test set, in domain (`test`) first; empty for a layer that was never measured."""
    return {} if report.test is None else {"test": report.test, **report.out_of_domain}


def set_names(manifest: Manifest) -> list[str]:
    """The names of all test sets, in domain first."""
    return list(dict.fromkeys(name for report in manifest.metrics.values() for name in measured(report)))


def auroc_by_layer(manifest: Manifest) -> Figure:
    """AUROC of each test set with its 95% interval as a band, baselines dashed in the same colour, controls grey."""
    figure, axes = layers_figure(manifest, height=4.0)
    for index, name in enumerate(set_names(manifest)):
        layers, found = _along(manifest, name)
        _line(axes, layers, [one.auroc for one in found], index, name=name)
        _band(axes, layers, [one.auroc_interval for one in found], index)
        for baseline, dashes in ((NAME, (5, 2)), (LENGTH, (1, 1.6))):
            if name in manifest.baselines.get(baseline, {}):
                axes.axhline(manifest.baselines[baseline][name], color=colour(index), linewidth=0.9, dashes=dashes)
    for baseline, dashes in ((NAME, (5, 2)), (LENGTH, (1, 1.6))):
        if baseline in manifest.baselines:
            axes.plot([], [], color=LIGHT["muted"], linewidth=0.9, dashes=dashes, label=baseline)
    for control, sign in (("random labels", "x"), ("random direction", "+")):
        values = {
            layer: report.random_label_auroc if sign == "x" else report.random_direction_auroc
            for layer, report in sorted(manifest.metrics.items())
        }
        shown = {layer: value for layer, value in values.items() if value is not None}
        if shown:
            axes.plot(list(shown), list(shown.values()), sign, color=LIGHT["muted"], markersize=4, label=control)
    axes.set(ylabel="AUROC")
    return _keyed(figure)


def ece_by_layer(manifest: Manifest) -> Figure:
    """ECE of each test set after Platt scaling with its interval, before it dotted, with isotonic regression dashed."""
    figure, axes = layers_figure(manifest, height=4.0)
    isotonic = False
    for index, name in enumerate(set_names(manifest)):
        layers, found = _along(manifest, name)
        _line(axes, layers, [one.ece for one in found], index, name=name)
        _band(axes, layers, [one.ece_interval for one in found], index)
        axes.plot(layers, [one.ece_uncalibrated for one in found], color=colour(index), linewidth=0.9, dashes=(1, 1.6))
        smooth = [(layer, one.ece_isotonic) for layer, one in zip(layers, found, strict=True) if one.ece_isotonic]
        if smooth:
            isotonic = True
            axes.plot(*zip(*smooth, strict=True), color=colour(index), linewidth=0.9, dashes=(5, 2))
    axes.plot([], [], color=LIGHT["muted"], linewidth=0.9, dashes=(1, 1.6), label="before")
    if isotonic:
        axes.plot([], [], color=LIGHT["muted"], linewidth=0.9, dashes=(5, 2), label="isotonic")
    axes.set(ylabel="calibration error (ECE)")
    axes.set_ylim(bottom=0)
    return _keyed(figure)


def shown_panels(card: Card) -> list[int]:
    """The default layers of which bins are known; at most `PANELS`, evenly over the depth."""
    layers = [layer for layer in card.manifest.default.layers if card.reliability.get(layer)]
    if len(layers) <= PANELS:
        return layers
    return [layers[round(at * (len(layers) - 1) / (PANELS - 1))] for at in range(PANELS)]


def reliability_panels(card: Card) -> Figure:
    """A panel per layer: what was observed against what was promised, with 95% Wilson bars; the diagonal is perfect."""
    layers = shown_panels(card)
    columns = 2 if len(layers) == 4 else min(3, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(5.0, 0.5 + rows * 4.8 / columns), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    flat: Sequence[Axes] = list(panels.flat)
    for axes, layer in zip(flat, layers, strict=False):
        _reliability(axes, card.reliability[layer])
        axes.set_title(f"layer {layer}")
    for spare in flat[len(layers) :]:
        spare.set_axis_off()
        flat[flat.index(spare) - columns].tick_params(labelbottom=True)
    figure.supxlabel("predicted probability", fontsize=9)
    figure.supylabel("observed share", fontsize=9)
    return figure


def layers_figure(manifest: Manifest, *, height: float) -> tuple[Figure, Axes]:
    """An empty plot over layers with the default layers shaded."""
    figure = Figure(figsize=(5.0, height), layout="constrained")
    axes = figure.subplots()
    for layer in manifest.default.layers:
        axes.axvspan(layer - 0.4, layer + 0.4, color=LIGHT["shade"], linewidth=0, zorder=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("layer (shaded: used by default)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _reliability(axes: Axes, bins: tuple[ReliabilityBin, ...]) -> None:
    axes.plot([0, 1], [0, 1], color=LIGHT["muted"], linewidth=0.8, dashes=(5, 2))
    means, observed = [one.mean for one in bins], [one.observed for one in bins]
    bars = [
        [max(0.0, one.observed - one.interval[0]) for one in bins],
        [max(0.0, one.interval[1] - one.observed) for one in bins],
    ]
    axes.errorbar(means, observed, yerr=bars, fmt="o", color=LIGHT["blue"], ecolor=LIGHT["blue"], elinewidth=0.9)
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")


def _along(manifest: Manifest, name: str) -> tuple[list[int], list[LayerMetrics]]:
    pairs = [(layer, measured(report)) for layer, report in sorted(manifest.metrics.items())]
    return [layer for layer, found in pairs if name in found], [found[name] for _, found in pairs if name in found]


def _line(axes: Axes, layers: Sequence[int], values: Sequence[float], index: int, *, name: str) -> None:
    axes.plot(layers, values, marker=marker(index), color=colour(index), label=label(name))


def _band(axes: Axes, layers: Sequence[int], intervals: Sequence[tuple[float, float] | None], index: int) -> None:
    known = [(layer, *interval) for layer, interval in zip(layers, intervals, strict=True) if interval]
    if known:
        at, low, high = zip(*known, strict=True)
        axes.fill_between(at, low, high, color=colour(index), alpha=0.14, linewidth=0)


def _keyed(figure: Figure) -> Figure:
    figure.legend(loc="outside lower center", ncols=3, handlelength=2.2, columnspacing=1.2)
    return figure
