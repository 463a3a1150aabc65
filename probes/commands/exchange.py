"""`tiller probe export`, `import`, `diff`, `push` and `pull`: probes in other tools' files and on the hub."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probes.errors import ExchangeError
from probes.exchange.adopt import UNKNOWN, Naming, adopt
from probes.exchange.comparison import Difference, compare
from probes.exchange.control_vector import read_control_vector
from probes.exchange.foreign import Foreign
from probes.exchange.hand_out import Format, hand_out
from probes.exchange.liseco import NAME, read_liseco
from probes.exchange.steering_vectors import read_steering_vectors
from probes.training.selection import parse_layers
from steering.artefact import load_probe, save_probe
from steering.bounds import Bounds
from steering.probe import Probe, ranges


class FormatChoice(StrEnum):
    """--format"""

    auto = "auto"
    gguf = "gguf"
    steering_vectors = "steering-vectors"
    liseco = "liseco"


class DirectionChoice(StrEnum):
    """--direction"""

    weight = "weight"
    mean = "mean"


class CompatChoice(StrEnum):
    """--compat"""

    architecture = "architecture"
    width = "width"


_KINDS: dict[FormatChoice, Format] = {
    FormatChoice.gguf: "gguf",
    FormatChoice.steering_vectors: "steering-vectors",
    FormatChoice.liseco: "liseco",
}
_PROBE = typer.Argument(help="A probe's folder, or its .safetensors file.")


def export(
    path: Annotated[Path, _PROBE],
    out: Annotated[Path, typer.Option(help="File to write; for liseco a folder. Never overwritten.")],
    format_: Annotated[
        FormatChoice,
        typer.Option(
            "--format",
            help="gguf: a control vector for llama.cpp and repeng. steering-vectors: for that package. liseco: the "
            "paper's files. auto: .gguf, .pt, and a name without ending.",
        ),
    ] = FormatChoice.auto,
    layers: Annotated[str, typer.Option(help="default, all, or a list such as 4,8,10-12.")] = "default",
    direction: Annotated[
        DirectionChoice,
        typer.Option(help="weight: the probe's own normal, as long as the classes are apart. mean: their difference."),
    ] = DirectionChoice.weight,
) -> None:
    """Write a probe as another tool's file, and say what that file cannot hold.

    Example: tiller probe export my-probes/toxicity/1 --out toxicity.gguf
    """
    probe = load_probe(path)
    chosen = _by_ending(out) if format_ is FormatChoice.auto else format_
    lost = hand_out(probe, out, kind=_KINDS[chosen], layers=_layers(probe, layers), direction=direction.value)
    Console().print(str(out), soft_wrap=True, highlight=False, markup=False)
    _say_lost(lost)


def import_(
    path: Annotated[str, typer.Argument(help="A file; for liseco also a folder, or a pattern in quotes.")],
    model: Annotated[str, typer.Option(help="The model it is for: embedded name, Hugging Face id or local folder.")],
    concept: Annotated[str, typer.Option(help="What it reads, in a word: toxicity.")],
    out: Annotated[Path, typer.Option(help="Folder of probes; the new one goes to OUT/NAME/VERSION/.")],
    format_: Annotated[
        FormatChoice, typer.Option("--format", help="auto: by the ending, and by the paper's way of naming files.")
    ] = FormatChoice.auto,
    name: Annotated[str | None, typer.Option(help="Name in requests; default: the concept.")] = None,
    version: Annotated[int, typer.Option(help="A version is never overwritten.")] = 1,
    positive_is: Annotated[str | None, typer.Option(help="What adding the vector, or a high logit, means.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of its data, for the manifest.")] = UNKNOWN,
    lower: Annotated[float | None, typer.Option(help="Default lower bound, a logit.")] = None,
    upper: Annotated[float | None, typer.Option(help="Default upper bound, a logit; 0 if neither is given.")] = None,
    compat: Annotated[
        CompatChoice, typer.Option(help="width: accept a file that names another model type.")
    ] = CompatChoice.architecture,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or balanced.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: cores that are not busy.")] = None,
) -> None:
    """Make a probe from another tool's file. It is not calibrated: bounds in probability are refused for it.

    Files are read as tensors and never run. Example:
    tiller probe import happy.gguf --model smollm2-135m-instruct --concept happiness --out my-probes
    """
    from probes.card import card_from_probe, write_card
    from steering.models import load_model

    bounds = Bounds(lower=lower, upper=0.0 if upper is None and lower is None else upper, space="logit")
    naming = Naming(name or concept, version, concept, positive_is, licence)
    source = Path(path)
    chosen = _by_name(source) if format_ is FormatChoice.auto else format_
    if chosen is not FormatChoice.liseco:
        foreign = _read_file(source, chosen)  # before the model, which takes longer to load
    language_model = load_model(model, device=device, threads=threads)
    if chosen is FormatChoice.liseco:
        foreign = read_liseco(source, num_hidden_layers=language_model.info.num_hidden_layers)
    probe = adopt(foreign, language_model, naming=naming, bounds=bounds, level=compat.value)
    made = save_probe(probe, out, beside=partial(write_card, card_from_probe(probe)))
    Console().print(str(made), soft_wrap=True, highlight=False, markup=False)
    assert probe.manifest.origin is not None
    _say_lost(probe.manifest.origin.lost)
    if foreign.biases is None:
        how = "use it with controller 'additive' (source 'contrast') or 'ablate' (source 'weight')"
        Console(stderr=True).print(how, soft_wrap=True, highlight=False, markup=False)


def diff(
    first: Annotated[Path, _PROBE],
    second: Annotated[Path, _PROBE],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say in what two probes differ. Exit 0 when they are the same, 1 when not, 2 when one cannot be read."""
    found = compare(load_probe(first), load_probe(second))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _show_difference(found)
    if not found.same:
        raise typer.Exit(1)


def push(
    path: Annotated[Path, typer.Argument(help="A probe's folder.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hugging Face Hub; made if it is not there.")],
    local: Annotated[
        Path | None, typer.Option(help="Write the repository's files to this new folder, and upload nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made, for you alone.")] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of the repository, as the Hub writes it: apache-2.0. Default: other.")
    ] = None,
) -> None:
    """Put a probe on the Hugging Face Hub with a model card, and print REPOSITORY@COMMIT to pin it by."""
    from probes.exchange import hub

    if local is not None:
        hub.lay_out(path, local, licence=licence)
        said = str(local)
    else:
        said = f"{repository}@{hub.push(path, repository, private=private, licence=licence)}"
    Console().print(said, soft_wrap=True, highlight=False, markup=False)


def pull(
    repository: Annotated[str, typer.Argument(help="owner/name, or owner/name@revision (commit, tag or branch).")],
    out: Annotated[Path, typer.Option(help="Folder of probes; it goes to OUT/NAME/VERSION/.")],
) -> None:
    """Fetch a probe from the Hugging Face Hub at one commit; nothing lands in OUT before every hash is checked."""
    from probes.exchange import hub

    name, at, revision = repository.partition("@")
    if at and not revision:
        raise ExchangeError(f"{repository} names no revision after the @; give a commit, a tag or a branch")
    pulled = hub.pull(name, out, revision=revision or None)
    Console().print(str(pulled.folder), soft_wrap=True, highlight=False, markup=False)
    err = Console(stderr=True)
    said = f"from {name}@{pulled.commit}: give that to have the same again"
    err.print(said, soft_wrap=True, highlight=False, markup=False)
    if pulled.left:
        err.print(f"not fetched: {', '.join(pulled.left)}", soft_wrap=True, highlight=False, markup=False)


def _by_ending(out: Path) -> FormatChoice:
    endings = {".gguf": FormatChoice.gguf, ".pt": FormatChoice.steering_vectors, "": FormatChoice.liseco}
    if out.suffix not in endings:
        raise ExchangeError(
            f"{out.name} ends in {out.suffix}, which tells no format; expected .gguf, .pt (steering-vectors) or no "
            "ending (a folder, liseco), or give --format",
            param="out",
        )
    return endings[out.suffix]


def _by_name(source: Path) -> FormatChoice:
    if source.is_dir() or "*" in source.name or NAME.fullmatch(source.name):
        return FormatChoice.liseco
    if not source.is_file():
        raise ExchangeError(f"there is no file {source}; give a file, a folder, or a pattern in quotes", param="path")
    if source.suffix not in (".gguf", ".pt"):
        raise ExchangeError(
            f"{source.name} ends in '{source.suffix}', which no format read here does; expected .gguf or .pt, or give "
            "--format",
            param="path",
        )
    return FormatChoice.gguf if source.suffix == ".gguf" else FormatChoice.steering_vectors


def _read_file(source: Path, chosen: FormatChoice) -> Foreign:
    if not source.is_file():
        raise ExchangeError(f"there is no file {source}", param="path")
    return read_control_vector(source) if chosen is FormatChoice.gguf else read_steering_vectors(source)


def _layers(probe: Probe, text: str) -> list[int]:
    if text == "default":
        return list(probe.manifest.default.layers)
    if text == "all":
        return sorted(probe.layers)
    return list(parse_layers(text, num_hidden_layers=probe.manifest.base_model.num_hidden_layers))


def _say_lost(lost: list[str]) -> None:
    err = Console(stderr=True)
    err.print("lost on the way:", highlight=False)
    for what in lost:
        err.print(f"- {what}", soft_wrap=True, highlight=False, markup=False)


def _show_difference(found: Difference) -> None:
    out = Console()

    def say(line: str) -> None:
        out.print(line, soft_wrap=True, highlight=False, markup=False)

    names = found.ids if found.ids[0] != found.ids[1] else (f"{found.ids[0]} (first)", f"{found.ids[1]} (second)")
    if found.same:
        say(f"{names[0]} and {names[1]} are the same, content SHA-256 {found.content[0]}")
        return
    equal = found.content[0] == found.content[1]
    say(f"numbers  {'the same' if equal else 'differ'}: {found.content[0][:16]} and {found.content[1][:16]}")
    for name, alone in zip(names, found.only, strict=True):
        if alone:
            say(f"layers   {ranges(alone)} only in {name}")
    if found.fields:
        fields = Table("manifest", *names)
        for field, values in found.fields.items():
            fields.add_row(escape(field), *(_short(value) for value in values))
        out.print(fields)
    changed = [layer for layer in found.layers if not layer.same]
    if changed:
        table = Table("layer", "cosine", "norm x", "bias", "slope", "intercept", "differs in")
        for layer in changed:
            cosine = "-" if layer.cosine is None else f"{layer.cosine:.6f}"
            moved = [f"{value:+.4g}" for value in (layer.bias, layer.scale, layer.shift)]
            parts = dict.fromkeys(name.partition(".")[0] for name in layer.tensors)
            table.add_row(str(layer.layer), cosine, f"{layer.norm_ratio:.4f}", *moved, ", ".join(parts))
        out.print(table)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return escape(text if len(text) <= 60 else f"{text[:57]}...")
