"""`tiller probe train`: labelled texts in, an artefact with its card out; of several concepts, one artefact each."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from probes.commands import ahead
from probes.commands import options as given
from probes.errors import FitError
from probes.harvest.activations import BATCH_TOKENS, MAX_TOKENS, TOKENS_PER_TEXT
from probes.harvest.shards import Pooling
from steering.bounds import Bounds
from steering.choices import DType
from steering.embedded import tiller_home

if TYPE_CHECKING:
    from probes.training.recipe import Parts, Recipe

_POOLINGS: dict[given.PoolingChoice, tuple[Pooling, ...]] = {
    given.PoolingChoice.last: ("last",),
    given.PoolingChoice.mean: ("mean",),
    given.PoolingChoice.all: ("all",),
    given.PoolingChoice.best: ("last", "mean"),
}


def train(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="Embedded model name, Hugging Face id or local folder.")],
    data: given.Data,
    concept: Annotated[str, typer.Option(help="What is read, in a word: toxicity.")],
    out: Annotated[Path, typer.Option(help="Folder of probes; the new one goes to OUT/NAME/VERSION/.")],
    name: Annotated[str | None, typer.Option(help="Name in requests; default: the concept.")] = None,
    version: Annotated[int, typer.Option(help="A version is never overwritten.")] = 1,
    layers: Annotated[str, typer.Option(help="all, or a list such as 0-29:3 or 4,8,10-12.")] = "all",
    positive_is: Annotated[str | None, typer.Option(help="What a high logit means; default: label 1.")] = None,
    positive_label_name: Annotated[str | None, typer.Option(help="Name of label 1; default: the concept.")] = None,
    negative_label_name: Annotated[str | None, typer.Option(help="Name of label 0; default: not <label 1>.")] = None,
    upper: Annotated[
        float | None, typer.Option(help="Default upper probability; 0.1 if neither bound is given.")
    ] = None,
    lower: Annotated[float | None, typer.Option(help="Default lower probability.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the data, for the manifest.")] = "not stated",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or balanced.")] = "auto",
    dtype: Annotated[
        given.DTypeChoice, typer.Option(help="Of the forward passes; auto: float32 on CPU.")
    ] = given.DTypeChoice.auto,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: cores that are not busy.")] = None,
    calibration: given.CalibrationFile = None,
    test: given.TestFiles = None,
    ood: given.OutOfDomain = None,
    pairs: given.PairFiles = None,
    text_column: given.TextColumn = "text",
    label_column: given.LabelColumn = "label",
    label_columns: given.LabelColumns = None,
    each_class: given.EachClass = False,
    group_column: given.GroupColumn = None,
    positive: given.Positive = None,
    threshold: given.Threshold = None,
    pair_columns: given.PairColumnNames = "positive,negative",
    drop_duplicates: given.DropDuplicates = False,
    max_label_noise: given.MaxLabelNoise = 0.0,
    drop_leaks: given.DropLeaks = False,
    pooling: given.Pool = given.PoolingChoice.last,
    tokens_per_text: given.TokensPerText = None,
    template: given.Format = given.TemplateChoice.raw,
    shard_dtype: given.ShardDType = given.ShardDTypeChoice.float32,
    max_tokens: given.MaxTokens = MAX_TOKENS,
    batch_tokens: given.BatchTokens = BATCH_TOKENS,
    work: given.Work = None,
    method: given.MethodName = given.MethodChoice.logistic,
    c: given.Penalty = None,
    shrinkage: given.Shrinkage = None,
    coordinates: given.Coordinates = None,
    seed: given.Seed = 0,
    carry: given.Carry = "",
    on_policy: ahead.OnPolicy = False,
    prompts: ahead.PromptFiles = None,
    exclude_prompts: ahead.Excluded = None,
    prompt_words: ahead.Words = None,
    prompt_count: ahead.Count = None,
    continuations: ahead.Continuations = None,
    new_tokens: ahead.NewTokens = None,
    horizon: ahead.Horizon = None,
    window_threshold: ahead.Threshold = None,
    window_quantile: ahead.Quantile = None,
    states: ahead.StatesCap = None,
    corpus_share: ahead.CorpusShare = None,
    iterations: ahead.Iterations = None,
    compare: ahead.Compare = None,
) -> None:
    """Train a probe: read the texts through the model, fit each layer, calibrate, measure, save with a card.

    Texts are never stored in the artefact and never printed. Interrupted with Ctrl-C, the same line resumes. Several
    processes share the reading: torchrun --nproc-per-node 2 -m probes train ... (or accelerate launch, one per GPU).
    """
    policy = ahead.AheadOptions(
        prompts, exclude_prompts, prompt_words, prompt_count, continuations, new_tokens, horizon, window_threshold,
        window_quantile, states, corpus_share, iterations, compare,
    )  # fmt: skip
    if not on_policy:
        policy.refuse_alone()
    _require_extra()
    from probes.commands.texts import TextOptions
    from probes.texts.labels import Columns
    from probes.texts.pairs import PairColumns
    from probes.training.recipe import Recipe

    if tokens_per_text is not None and pooling is not given.PoolingChoice.all:
        raise FitError(
            f"--tokens-per-text is of --pooling all, and this one is {pooling.value}; leave it off",
            param="tokens_per_text",
        )
    positive_name = positive_label_name or positive or concept
    recipe = Recipe(
        name=name or concept,
        version=version,
        concept=concept,
        positive_is=positive_is or positive_name,
        labels=(negative_label_name or f"not {positive_name}", positive_name),
        licence=licence,
        layers=layers,
        poolings=_POOLINGS[pooling],
        bounds=Bounds(lower=lower, upper=0.1 if upper is None and lower is None else upper),
        carry=tuple(_listed(carry)),
        method=method.value,
        C=c,
        shrinkage=_shrinkage(shrinkage),
        coordinates=coordinates,
        seed=seed,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        tokens_per_text=TOKENS_PER_TEXT if tokens_per_text is None else tokens_per_text,
        template=template.value,
        shard_dtype=shard_dtype.value,
        dataset=data.name,
        command=_command(context.obj or []),
    )
    texts = TextOptions(
        data=data,
        calibration=calibration,
        test=test or [],
        out_of_domain=ood or [],
        pairs=pairs or [],
        columns=Columns(
            text=text_column, label=label_column, positive=positive, group=group_column, threshold=threshold
        ),
        pair_columns=PairColumns.parse(pair_columns),
        label_columns=tuple(_listed(label_columns or "")),
        each_class=each_class,
        drop_duplicates=drop_duplicates,
        max_label_noise=max_label_noise,
        drop_leaks=drop_leaks,
    )
    texts.refuse_names_of_one(positive_is, positive_label_name, negative_label_name)
    if on_policy:
        policy.refuse_beside(recipe, out_of_domain=bool(ood))
        texts.refuse_beside_on_policy(recipe)
    _run(
        texts.concepts(recipe),
        model=model,
        device=device,
        dtype=dtype.value,
        threads=threads,
        out=out,
        work=work,
        policy=policy if on_policy else None,
    )


def _run(
    concepts: Sequence[tuple[Parts, Recipe]],
    *,
    model: str,
    device: str,
    dtype: DType,
    threads: int | None,
    out: Path,
    work: Path | None,
    policy: ahead.AheadOptions | None,
) -> None:
    """Load the model, train, say where the probes are; the activations go unless the user named their place."""
    from probes.console import bars
    from probes.harvest.processes import team
    from probes.training.train import run_concepts
    from steering.models import load_model

    processes = team()
    err = Console(stderr=True, quiet=not processes.first, emoji=False)
    parts, recipe = concepts[0]
    for line in dict.fromkeys(line for own, _ in concepts for report in own.reports for line in report.findings):
        err.print(line, style="yellow", soft_wrap=True, markup=False, highlight=False)
    folder = work or tiller_home() / "harvest" / f"{recipe.name}-{recipe.version}"
    try:
        lm = load_model(model, device=processes.device(device), dtype=dtype, threads=processes.threads(threads))
        with bars(err) as progress:
            if policy is not None:
                made = [ahead.train_ahead(lm, parts, recipe, policy, out=out, work=folder, progress=progress)]
            else:
                made = run_concepts(lm, concepts, out=out, work=folder, progress=progress)
    except KeyboardInterrupt:
        err.print(
            f"interrupted; finished activations are kept in {folder}: run the same command again to resume, or delete "
            "that folder",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )
        raise typer.Exit(130) from None
    if not processes.first:
        return
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    for each in made:
        typer.echo(str(each))
        err.print(
            f"read {each / 'card.html'} for its figures and limits",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def _require_extra() -> None:
    missing = [name for name in ("sklearn", "matplotlib", "pyarrow", "threadpoolctl") if find_spec(name) is None]
    if missing:
        raise FitError(f"training needs {', '.join(missing)}, which is not installed: pip install 'tiller-lm[probes]'")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shrinkage(text: str | None) -> float | Literal["auto"] | None:
    if text is None or text == "auto":
        return "auto" if text else None
    try:
        return float(text)
    except ValueError:
        raise FitError(
            f"--shrinkage {text} is neither a number from 0 to 1 nor auto; for example 0.1", param="shrinkage"
        ) from None


def _command(arguments: Sequence[str]) -> str:
    """The line for the card; absolute paths shrink to their last part, since other machines have other folders."""

    def portable(word: str) -> str:
        called, equals, path = word.rpartition("=")
        return f"{called}{equals}{Path(path).name}" if Path(path).is_absolute() else word

    return shlex.join(["tiller", "probe", *map(portable, arguments)])
