"""The picture of a card: AUROC and calibration error over layers, as PNG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from probes.baseline import NAME
from steering.manifest import Manifest


def plot_layers(manifest: Manifest, path: Path) -> None:
    """Write the figure to `path`: left AUROC per test set with the lexical baseline dashed in the same colour and the
    random controls in grey, right ECE before (dotted) and after calibration. Default layers are shaded."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    layers = sorted(manifest.metrics)
    reports = [manifest.metrics[layer] for layer in layers]
    baseline = manifest.baselines.get(NAME, {})
    for index, name in enumerate(["test", *reports[0].out_of_domain]):
        colour = f"C{index}"
        measured = [report.test if name == "test" else report.out_of_domain[name] for report in reports]
        left.plot(layers, [found.auroc for found in measured], ".-", color=colour, label=name)
        if name in baseline:
            left.axhline(baseline[name], color=colour, linestyle="--", linewidth=0.8, label=f"{name}, {NAME}")
        right.plot(layers, [found.ece for found in measured], ".-", color=colour, label=name)
        right.plot(layers, [found.ece_uncalibrated for found in measured], ":", color=colour, linewidth=0.8)
    left.plot(layers, [report.random_label_auroc for report in reports], "x", color="grey", label="random labels")
    left.plot(
        layers, [report.random_direction_auroc for report in reports], "+", color="grey", label="random direction"
    )
    _finish(left, manifest, "AUROC", f"{manifest.id}: does the layer read '{manifest.concept}'?")
    _finish(right, manifest, "ECE (dotted: before calibration)", "Does its probability mean what it says?")
    right.set_ylim(bottom=0)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})  # type: ignore[no-untyped-call]


def _finish(axes: Axes, manifest: Manifest, quantity: str, title: str) -> None:
    for layer in manifest.default.layers:
        axes.axvspan(layer - 0.4, layer + 0.4, color="0.93", zorder=0)
    axes.set_xlabel("layer (block output; shaded: default layers)")
    axes.set_ylabel(quantity)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)
