"""`tiller probe show` and `verify`: what a probe is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from steering.artefact import content_sha256, load_probe
from steering.fitted import GROUPS
from steering.probe import Probe, ranges


def show(path: Annotated[Path, typer.Argument(help="A probe's folder, or its .safetensors file.")]) -> None:
    """Print what a probe reads, of which model, and how well, layer by layer."""
    probe = load_probe(path)
    out = Console()
    for line in _about(probe):
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    table = Table("layer", "AUROC", "accuracy", "Brier", "ECE", "out of domain AUROC", "random labels", "default")
    for layer, report in sorted(probe.manifest.metrics.items()):
        elsewhere = "  ".join(f"{name} {found.auroc:.3f}" for name, found in report.out_of_domain.items())
        test = report.test
        figures = [f"{value:.3f}" for value in (test.auroc, test.accuracy, test.brier, test.ece)]
        mark = "yes" if layer in probe.manifest.default.layers else ""
        table.add_row(str(layer), *figures, elsewhere or "-", f"{report.random_label_auroc:.3f}", mark)
    out.print(table)


def verify(path: Annotated[Path, typer.Argument(help="A probe's folder, or its .safetensors file.")]) -> None:
    """Check that a probe is whole: hashes, schema, shapes, finite numbers. Exit 2 with the reason when it is not."""
    probe = load_probe(path)
    Console().print(
        f"{probe.id} is sound: {len(probe.layers)} layers for {probe.manifest.base_model.id}, content SHA-256 "
        f"{content_sha256(probe)}",
        soft_wrap=True,
        highlight=False,
    )


def _about(probe: Probe) -> list[str]:
    manifest = probe.manifest
    carried = [
        group if len(at) == len(probe.layers) else f"{group} (layers {ranges(at)})"
        for group in GROUPS
        if (at := probe.layers_with(group))
    ]
    base, default = manifest.base_model, manifest.default
    words = [f"{name} {value:.3f}" for scores in manifest.baselines.values() for name, value in scores.items()]
    return [
        f"{manifest.id}: {manifest.concept}; a high logit means {manifest.positive_is}",
        f"model    {base.id} ({base.model_type}, {base.num_hidden_layers} layers of {base.hidden_size}, {base.dtype})",
        f"data     {manifest.dataset.name} ({manifest.dataset.licence}), token rule {manifest.token_rule}",
        f"default  lower {default.lower}, upper {default.upper} in {default.space}, {default.metric}",
        f"carries  {', '.join(carried) or 'nothing but the read-out'}",
        f"words    lexical baseline AUROC: {', '.join(words) or 'not measured'}",
    ]
