"""python benchmarks/sparse.py --data ../shared/data --work FOLDER: what probes of k coordinates gain or lose.

For each shipped concept: probes of 8, 32, 128 and all coordinates at the default layers, C cross-validated for each
number at the middle one of them. AUROC and ECE (Platt on the calibration texts) in domain and out of domain, and
accuracy on minimal pairs, means over the layers. FOLDER holds, or gets, the activations of `probes.pretrain`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from probes.measure.calibration import platt
from probes.measure.metrics import auroc, ece
from probes.measure.minimal_pairs import pair_metrics
from probes.methods.table import Setting, fit_direction
from probes.pretrain import PROBES
from probes.training.choice import choose_strength
from probes.training.samples import Harvested, sample
from probes.training.selection import default_layers
from probes.training.train import Progress, TrainingRun
from steering.embedded import SMOLLM2
from steering.models import load_model

COUNTS = (8, 32, 128, None)
"""None: all."""


def measure(data: Harvested, layer: int, setting: Setting) -> dict[str, float]:
    """Figures of one probe on every test set and every set of pairs."""
    train, held = sample(data.train, layer, "last"), sample(data.calibration, layer, "last")
    affine = fit_direction(train.resid, train.labels, setting)
    calibration = platt(affine.logit(held.resid), held.labels)
    figures = {}
    for name, part in {"test": data.test, **data.out_of_domain}.items():
        found = sample(part, layer, "last")
        logits = affine.logit(found.resid)
        figures[f"AUROC {name}"] = auroc(logits, found.labels)
        figures[f"ECE {name}"] = ece(calibration.probability(logits), found.labels)
    for name, part in data.pairs.items():
        figures[f"pairs {name}"] = pair_metrics(affine.logit(sample(part, layer, "last").resid), part.corpus).accuracy
    return figures


def main(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    work: Annotated[Path, typer.Option(help="Folder of activations: FOLDER/pretrain-<name>.")],
    every: Annotated[int, typer.Option(help="Take every n-th of the default layers.")] = 1,
) -> None:
    """Print one Markdown table per concept."""
    language_model = load_model(SMOLLM2.name, device="cpu", dtype="float32", threads=1)
    layers = default_layers(30, range(30))[::every]
    for name, recipe_of in PROBES.items():
        parts, recipe = recipe_of(data)
        recipe = replace(recipe, poolings=("last", "mean"))
        harvested = TrainingRun(language_model, parts, recipe, Progress()).harvest(work / f"pretrain-{name}", {})
        for at, count in enumerate(COUNTS):
            with threadpool_limits(limits=1):
                sparse = replace(recipe, coordinates=count)
                middle = [layers[len(layers) // 2]]
                setting = choose_strength(harvested, sparse, "last", middle, say=lambda line: None)
                found = [measure(harvested, layer, setting) for layer in layers]
            if at == 0:
                typer.echo(f"\n| {name} | C | {' | '.join(found[0])} |\n|{' --- |' * (len(found[0]) + 2)}")
            means = [f"{np.mean([row[figure] for row in found]):.3f}" for figure in found[0]]
            typer.echo(f"| {count or 'all'} | {setting.C:g} | {' | '.join(means)} |")


if __name__ == "__main__":
    typer.run(main)
