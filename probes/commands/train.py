"""`tiller probe train`: labelled texts in, an artefact with its card out."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.activations import BATCH_TOKENS, MAX_TOKENS
from probes.corpus import Corpus, combine
from probes.errors import CorpusError, FitError
from probes.shards import Pooling
from steering.bounds import Bounds
from steering.embedded import tiller_home
from steering.models import DType


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


def _require_extra() -> None:
    missing = [name for name in ("sklearn", "matplotlib", "pyarrow", "threadpoolctl") if find_spec(name) is None]
    if missing:
        raise FitError(f"training needs {', '.join(missing)}, which is not installed: pip install 'tiller-lm[probes]'")


def _named_file(text: str) -> tuple[str, Path]:
    called, equals, path = text.partition("=")
    if not equals or not called or not path:
        raise CorpusError(f"--ood {text} is not NAME=FILE; for example --ood tweets=tweets.jsonl", param="ood")
    return called, Path(path)


def _command(arguments: Sequence[str]) -> str:
    """The line for the card; absolute paths shrink to their last part, since other machines have other folders."""

    def portable(word: str) -> str:
        called, equals, path = word.rpartition("=")
        return f"{called}{equals}{Path(path).name}" if Path(path).is_absolute() else word

    return shlex.join(["tiller", "probe", *map(portable, arguments)])
