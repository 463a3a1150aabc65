"""The sets of layers a screen tries."""

from __future__ import annotations

from collections.abc import Sequence

from probes.screen.question import Layers
from probes.training.selection import default_layers
from steering.manifest import ScreenRow
from steering.probe import Probe

GROWING = (2, 4, 8, 16)


def singles(layers: Sequence[int]) -> list[tuple[str, Layers]]:
    """Every layer by itself."""
    return [("single", (layer,)) for layer in sorted(layers)]


def compounds(probe: Probe, rows: Sequence[ScreenRow]) -> list[tuple[str, Layers]]:
    """What follows the single layers, given their rows.

    Nested sets of the best 2, 4, 8, 16 layers by the lower end of effect per KL; all of them (the LiSeCo paper); the
    rule by depth that `tiller probe train` falls back on; and the layer of best AUROC, where figures are known. Layers
    whose lower ends are equal, as when none moves the score by itself, are ordered by effect per KL, then by AUROC.
    """
    tests = {layer: report.test for layer, report in probe.manifest.metrics.items()}
    read = {row.layers[0]: test.auroc for row in rows if (test := tests[row.layers[0]]) is not None}

    def rank(row: ScreenRow) -> tuple[float, float, float, int]:
        layer = row.layers[0]
        return -row.per_kl_interval[0], -row.per_kl, -read.get(layer, 0.0), layer

    order = [row.layers[0] for row in sorted(rows, key=rank)]
    found: list[tuple[str, Layers]] = [
        ("growing", tuple(sorted(order[:size]))) for size in GROWING if size < len(order)
    ]
    found.append(("all", tuple(sorted(order))))
    found.append(("rule", tuple(default_layers(probe.manifest.base_model.num_hidden_layers, order))))
    if read:
        found.append(("best AUROC", (max(sorted(read), key=lambda layer: read[layer]),)))
    return found
