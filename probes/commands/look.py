"""`tiller probe show` and `verify`: what a probe is, and whether it, or a folder of them, is whole."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.commands.summary import about, document, tables
from probes.exchange.hub import check_files
from steering.artefact import MANIFEST, TENSORS, content_sha256, load_probe
from steering.errors import CorruptProbe, ProbeError, UnknownProbe
from steering.identity import check_compatible
from steering.models import LanguageModel
from steering.probe import Probe, ranges


class LevelChoice(StrEnum):
    """--compat"""

    exact = "exact"
    architecture = "architecture"
    width = "width"


def show(
    path: Annotated[Path, typer.Argument(help="A probe's folder, or its .safetensors file.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole manifest as one JSON document.")] = False,
) -> None:
    """Print what a probe reads, of which model, and how well, layer by layer."""
    probe = load_probe(path)
    if as_json:
        typer.echo(json.dumps(document(probe), indent=2))
        return
    out = Console()
    for line in about(probe):
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    for table in tables(probe):
        out.print(table)


def verify(
    path: Annotated[Path, typer.Argument(help="A probe's folder or .safetensors file, or a folder of probes.")],
    model: Annotated[str | None, typer.Option(help="Also check that it fits this model (loaded on the CPU).")] = None,
    compat: Annotated[LevelChoice, typer.Option(help="How closely it must fit --model.")] = LevelChoice.exact,
) -> None:
    """Check that probes are whole: hashes, schema, shapes, finite numbers; with --model, that they fit it.

    Exit 2 when any is not; each has its line, with the reason.
    """
    language_model = None
    if model is not None:
        from steering.models import load_model

        language_model = load_model(model, device="cpu")
    single = path.is_file() or (path / MANIFEST).is_file() or (path / TENSORS).is_file() or not path.exists()
    out, failures = Console(), []
    for folder in [path] if single else _folders(path):
        try:
            line = _sound(_check(folder, language_model, compat, placed=not single), language_model, compat)
        except ProbeError as error:
            if single:
                raise
            failures.append(folder)
            line = f"{folder.relative_to(path)}: {error}"
        out.print(line, soft_wrap=True, highlight=False, markup=False)
    if failures:
        raise CorruptProbe(f"{len(failures)} of the probes in {path} must not be used; see above")


def _folders(path: Path) -> list[Path]:
    found = sorted(
        {file.parent for name in (MANIFEST, TENSORS) for file in path.rglob(name) if ".partial-" not in str(file)}
    )
    if not found:
        raise UnknownProbe(f"there is no probe below {path}; expected <name>/<version>/{MANIFEST}")
    return found


def _check(folder: Path, lm: LanguageModel | None, compat: LevelChoice, *, placed: bool) -> Probe:
    probe = load_probe(folder)
    if folder.is_dir():
        check_files(folder, probe)
    if placed and probe.id != f"{folder.parent.name}@{folder.name}":
        raise CorruptProbe(f"holds {probe.id}; a probe's folder is <name>/<version>: move it back there")
    if lm is not None:
        check_compatible(probe, lm.info, lm.tokenizer_info, level=compat.value)
    return probe


def _sound(probe: Probe, lm: LanguageModel | None, compat: LevelChoice) -> str:
    fits = "" if lm is None else f", fits {lm.info.id} ({compat.value})"
    return (
        f"{probe.id} is sound{fits}: layers {ranges(probe.layers)} for {probe.manifest.base_model.id}, content SHA-256 "
        f"{content_sha256(probe)}"
    )
