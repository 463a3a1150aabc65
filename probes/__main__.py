"""tiller probe train --model smollm2-135m-instruct --data texts.jsonl --concept toxicity --out my-probes

Also `python -m probes`. `train` makes a probe from labelled texts, `show` prints what one is, `verify` checks that its
files are whole. Exit codes: 0 done, 2 refused with a reason, 130 interrupted (run the same line again to resume).
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from probes.activations import BATCH_TOKENS, MAX_TOKENS
from probes.corpus import Corpus, combine
from probes.errors import CorpusError, FitError
from probes.shards import Pooling
from steering.artefact import content_sha256, load_probe
from steering.bounds import Bounds
from steering.commandline import run_app
from steering.embedded import tiller_home
from steering.fitted import GROUPS
from steering.models import DType
from steering.probe import Probe, ranges

app = typer.Typer(
    help="Make and inspect probes: linear read-outs of a concept from a model's residual stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class PoolingChoice(StrEnum):
    """--pooling"""

    last = "last"
    mean = "mean"
    best = "best"


_POOLINGS: dict[PoolingChoice, tuple[Pooling, ...]] = {
    PoolingChoice.last: ("last",),
    PoolingChoice.mean: ("mean",),
    PoolingChoice.best: ("last", "mean"),
}


class DTypeChoice(StrEnum):
    """--dtype"""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.command()
def train(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="Embedded model name, Hugging Face id or local folder.")],
    data: Annotated[Path, typer.Option(help="Labelled texts: .jsonl[.gz], .csv[.gz] or .parquet.")],
    concept: Annotated[str, typer.Option(help="What is read, in a word: toxicity.")],
    out: Annotated[Path, typer.Option(help="Folder of probes; the new one goes to OUT/NAME/VERSION/.")],
    name: Annotated[str | None, typer.Option(help="Name in requests; default: the concept.")] = None,
    version: Annotated[int, typer.Option(help="A version is never overwritten.")] = 1,
    layers: Annotated[str, typer.Option(help="all, or a list such as 0-29:3 or 4,8,10-12.")] = "all",
    pooling: Annotated[
        PoolingChoice, typer.Option(help="Which residual stands for a text; best: compare both on calibration texts.")
    ] = PoolingChoice.last,
    calibration: Annotated[
        Path | None, typer.Option(help="Texts to calibrate on; default: 15% of the data, by hash.")
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="In-domain test texts (repeatable); default: 15% of the data, by hash.")
    ] = None,
    ood: Annotated[list[str] | None, typer.Option(help="Out-of-domain test, NAME=FILE (repeatable).")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    group_column: Annotated[
        str | None, typer.Option(help="Rows that agree here stay in one split (pairs, authors).")
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="The label value that means 1, where labels are names: es.")
    ] = None,
    positive_is: Annotated[str | None, typer.Option(help="What a high logit means; default: label 1.")] = None,
    positive_label_name: Annotated[str | None, typer.Option(help="Name of label 1; default: the concept.")] = None,
    negative_label_name: Annotated[str | None, typer.Option(help="Name of label 0; default: not <label 1>.")] = None,
    upper: Annotated[
        float | None, typer.Option(help="Default upper probability; 0.1 if neither bound is given.")
    ] = None,
    lower: Annotated[float | None, typer.Option(help="Default lower probability.")] = None,
    carry: Annotated[
        str,
        typer.Option(
            help="Also fit and store what these controllers need, with commas between: transport, affine (hidden_size "
            "squared numbers per layer), erase, reading, contrast (needs --group-column), lqr (runs the model again), "
            "state (state-space models). Class means and the metric of whitened projections are always stored."
        ),
    ] = "",
    licence: Annotated[str, typer.Option(help="Licence of the data, for the manifest.")] = "not stated",
    c: Annotated[
        float | None, typer.Option("--C", help="Inverse L2 penalty; default: cross-validated on the training texts.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the splits and the random controls.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longer texts keep their beginning and are counted.")] = MAX_TOKENS,
    batch_tokens: Annotated[int, typer.Option(help="Padded tokens per forward pass; bounds memory.")] = BATCH_TOKENS,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Keep the first of equal texts, rather than refuse the file.")
    ] = False,
    drop_leaks: Annotated[
        bool, typer.Option("--drop-leaks", help="Leave training texts out that stand in another file.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or balanced.")] = "auto",
    dtype: Annotated[DTypeChoice, typer.Option(help="Of the forward passes; auto: float32 on CPU.")] = DTypeChoice.auto,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: cores that are not busy.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where activations are kept; default: under TILLER_HOME, removed at the end.")
    ] = None,
) -> None:
    """Train a probe: read the texts through the model, fit each layer, calibrate, measure, save with a card.

    Texts are never stored in the artefact and never printed. Interrupted with Ctrl-C, the same line resumes.
    """
    _require_extra()
    from probes.console import bars
    from probes.reading import Columns, read_corpus
    from probes.recipe import Recipe, arrange
    from probes.train import run
    from steering.models import load_model

    err = Console(stderr=True)
    poolings: tuple[Pooling, ...] = _POOLINGS[pooling]
    positive_name = positive_label_name or positive or concept
    recipe = Recipe(
        name=name or concept,
        version=version,
        concept=concept,
        positive_is=positive_is or positive_name,
        labels=(negative_label_name or f"not {positive_name}", positive_name),
        licence=licence,
        layers=layers,
        poolings=poolings,
        bounds=Bounds(lower=lower, upper=0.1 if upper is None and lower is None else upper),
        carry=tuple(group.strip() for group in carry.split(",") if group.strip()),
        C=c,
        seed=seed,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        dataset=data.name,
        command=_command(context.obj or []),
    )
    columns = Columns(text=text_column, label=label_column, positive=positive, group=group_column)

    def read(path: Path, called: str | None = None) -> Corpus:
        return read_corpus(path, columns=columns, name=called, drop_duplicates=drop_duplicates)

    parts = arrange(
        read(data),
        calibration=None if calibration is None else read(calibration),
        test=combine("test", [read(path) for path in test]) if test else None,
        out_of_domain={called: read(path, called) for called, path in map(_named_file, ood or [])},
        drop_leaks=drop_leaks,
        seed=seed,
    )
    folder = work or tiller_home() / "harvest" / f"{recipe.name}-{version}"
    chosen: DType = dtype.value
    try:
        language_model = load_model(model, device=device, dtype=chosen, threads=threads)
        with bars(err) as progress:
            made = run(language_model, parts, recipe, out=out, work=folder, progress=progress)
    except KeyboardInterrupt:
        err.print(
            f"interrupted; finished activations are kept in {folder}: run the same command again to resume, or delete "
            "that folder",
            style="yellow",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    Console().print(f"{made}", soft_wrap=True, highlight=False)
    err.print(f"read {made / 'card.md'} for its figures and limits", soft_wrap=True, highlight=False)


@app.command()
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


@app.command()
def verify(path: Annotated[Path, typer.Argument(help="A probe's folder, or its .safetensors file.")]) -> None:
    """Check that a probe is whole: hashes, schema, shapes, finite numbers. Exit 2 with the reason when it is not."""
    probe = load_probe(path)
    Console().print(
        f"{probe.id} is sound: {len(probe.layers)} layers for {probe.manifest.base_model.id}, content SHA-256 "
        f"{content_sha256(probe)}",
        soft_wrap=True,
        highlight=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what Tiller refuses is said on stderr."""
    return run_app(app, argv, prog_name="tiller probe")


def _require_extra() -> None:
    missing = [name for name in ("sklearn", "matplotlib", "pyarrow", "threadpoolctl") if find_spec(name) is None]
    if missing:
        raise FitError(f"training needs {', '.join(missing)}, which is not installed: pip install 'tiller-lm[probes]'")


def _named_file(text: str) -> tuple[str, Path]:
    called, equals, path = text.partition("=")
    if not equals or not called or not path:
        raise CorpusError(f"--ood {text} is not NAME=FILE; for example --ood tweets=tweets.jsonl", param="ood")
    return called, Path(path)


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


def _command(arguments: Sequence[str]) -> str:
    """The line for the card; absolute paths shrink to their last part, since other machines have other folders."""

    def portable(word: str) -> str:
        called, equals, path = word.rpartition("=")
        return f"{called}{equals}{Path(path).name}" if Path(path).is_absolute() else word

    return shlex.join(["tiller", "probe", *map(portable, arguments)])


if __name__ == "__main__":
    sys.exit(main())
