"""python -m eval run quick --out runs/quick

`run` writes and measures what a spec asks for, `rescore` judges what was written anew, `specs` lists the ready ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from eval.report.commands import say
from eval.report.files import write_report
from eval.runner.errors import SpecError
from eval.runner.folder import RunFolder
from eval.runner.lifeline import end_with_standard_input
from eval.runner.prepare import prepare
from eval.runner.provenance import note_rescoring
from eval.runner.reading import read_spec, ready_specs
from eval.runner.run import finish, measure_samples, run, sizes_of
from eval.runner.scorers import load_scorers
from eval.runner.told import ProgressFile, errors_told
from steering import LanguageModel, load_model

_COST = ("rep-4", "tokens", "edited", "dose", "KL", "violations", "tokens/s")

Out = Annotated[Path, typer.Option(help="Folder of the run; what is finished there is kept and gone on from.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `tiller eval`."""
    app.command("run")(run_command)
    app.command("rescore")(rescore)
    app.command("specs")(specs)


def run_command(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(help="A spec file, or the name of a ready one (tiller eval specs).")],
    out: Out,
    data: Annotated[
        Path | None, typer.Option(envvar="TILLER_DATA", help="Folder of the data files, in place of the spec's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Embedded model, Hugging Face id or folder.")] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="With a server: load none here, also where the spec names one.")
    ] = False,
    server: Annotated[str | None, typer.Option(help="URL of a running server that writes.")] = None,
    probes: Annotated[str | None, typer.Option(help="Folder of probes, <name>/<version> below it.")] = None,
    n: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts of every set, or of every stratum.")
    ] = None,
    placebos: Annotated[
        str | None, typer.Option(help="Which arms of a grid get a placebo: all, first or none; the report says so.")
    ] = None,
    train_data: Annotated[
        list[Path] | None,
        typer.Option(help="JSON lines a probe was trained on: no prompt may stand there. Repeatable."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads; by default by load.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at a server.")] = 8,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds a server that is full or away is asked again.")
    ] = 60.0,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it can be run; write nothing.")] = False,
    progress: Annotated[
        Path | None, typer.Option(help="Also append to this file how far it is, as lines of JSON.")
    ] = None,
    confined: Annotated[
        bool,
        typer.Option("--confined", help="The spec is a stranger's: it reads nothing but --data, and decides no model."),
    ] = False,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Refuse a spec of more continuations.")] = None,
    lifeline: Annotated[
        bool, typer.Option("--lifeline", help="End at once when standard input does, with whoever started this.")
    ] = False,
) -> None:
    """Write every prompt under every arm, score what was written, keep every sample, and report what may be claimed.

    A spec names prompts, decoding, arms and judges (`tiller eval specs --show quick` prints one to copy). Each steered
    arm gets a placebo: steps of the same norm in a random direction. Killed at any point, the same command goes on from
    there. It ends in report.html: the verdict first, weak results and broken bounds included.

    Example: tiller eval run quick --out runs/quick
    """
    if lifeline:
        end_with_standard_input()
    if model is not None and Path(model).is_dir():
        model = _absolute(model)
    overrides = {"model": model, "server": server, "probes": _absolute(probes), "placebos": placebos}

    def load(name: str) -> LanguageModel:
        return load_model(name, threads=threads)

    with errors_told(progress):
        read = read_spec(spec, data=data, n=n, overrides=overrides, confined=confined, no_model=no_model)
        prepared = prepare(
            read,
            load=load,
            train_data=train_data or (),
            concurrency=concurrency,
            patience=patience,
            max_rows=max_rows,
        )
        try:
            if check:
                typer.echo(f"{read.spec.name} can be run: {len(prepared.prompts)} prompts, {len(prepared.arms)} arms")
                return
            with Bar() as bar:
                listener = bar if progress is None else ProgressFile(progress, bar)
                run(prepared, RunFolder(out), listener=listener, arguments=context.obj or ())
        finally:
            prepared.writer.close()
        found = _reported(RunFolder(out))
    show(found, out)


def rescore(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The --out of a finished run.")],
    scorer: Annotated[list[str], typer.Option(help="What judges it. Repeatable.")],
) -> None:
    """Judge the continuations of a run by further scorers, without writing them again.

    Example: tiller eval rescore runs/quick --scorer vader
    """
    kept = RunFolder(folder)
    sizes = sizes_of(kept.identity())
    kept.table()  # a run that is not finished is refused before a scorer is loaded
    scorers = load_scorers(scorer)
    with kept.locked(), Bar() as bar:
        for measure in scorers.values():
            measure_samples(measure, kept, sizes, listener=bar)
        finish(kept, left_out=kept.left_out())
        note_rescoring(kept, context.obj or (), {measure.name: measure.card for measure in scorers.values()})
    show(_reported(kept), folder)


def specs(
    show: Annotated[str | None, typer.Option(help="Print one of them, to copy and change.")] = None,
) -> None:
    """List the ready specs."""
    ready = ready_specs()
    if show is not None:
        if show not in ready:
            raise SpecError(f"there is no ready spec '{show}'; there are: {', '.join(ready)}")
        typer.echo(ready[show].read_text(encoding="utf-8"), nl=False)
        return
    table = Table("spec", "what it does", box=None, pad_edge=False)
    for name, path in ready.items():
        table.add_row(name, read_spec(str(path)).spec.about)
    Console().print(table)
    typer.echo("\ntiller eval run NAME --out DIR runs one; tiller eval specs --show NAME prints it")


def show(found: dict[str, Any], out: Path) -> None:
    """The report's figures as two tables, and where the rest is."""
    console = Console(width=None if Console().is_terminal else 160)
    thresholds: dict[str, float] = found["thresholds"]
    scores = Table(
        "arm", "n", *(head for name in thresholds for head in (name, "change")), "perplexity", pad_edge=False
    )
    cost = Table("arm", *(f"{name} >= {at:g}" for name, at in thresholds.items()), *_COST, pad_edge=False)
    for arm in found["arms"]:
        judged = [arm["scores"][name] for name in thresholds]
        means = [
            cell
            for score in judged
            for cell in (_number(score["mean"]["value"], 3), _interval(score["change"], 3, signed=True))
        ]
        scores.add_row(arm["arm"], str(arm["n"]), *means, _interval(arm["perplexity"], 1))
        steering = arm["steering"]
        steered = ["-", "-", "-", "-"]
        if steering:
            moved = [_share(steering["edited"]), _number(steering["mean_dose"], 3)]
            steered = [*moved, _number(arm["kl"]["value"], 3), str(steering["violations"])]
        rates = [_share(score["rate"]["value"]) for score in judged]
        measured = [_number(arm["repetition"], 2), _number(arm["new_tokens"], 1), *steered]
        cost.add_row(arm["arm"], *rates, *measured, _number(arm["tokens_per_second"], 0))
    console.print(scores, cost)
    strata = list(found["arms"][0]["strata"])
    for name in thresholds if strata else ():
        apart = Table(
            "arm", *(head for stratum in strata for head in (stratum, "change", *_several(found))), pad_edge=False
        )
        for arm in found["arms"]:
            apart.add_row(arm["arm"], *(cell for stratum in strata for cell in _apart(arm["strata"][stratum][name])))
        console.print(f"{name}, by stratum:", apart)
    for line in found["left_out"]:
        typer.echo(f"note: {line}")
    typer.echo(
        "[low, high] are 95% intervals, of changes paired by prompt; a placebo promises no bound, so its "
        "violations are expected"
    )
    typer.echo(f"samples: {out / 'samples.parquet'}   made by: {out / 'provenance.json'}")
    say(found, out)


class Bar:
    """A progress bar per stage on the terminal, with an estimate that knows what was there before."""

    def __init__(self) -> None:
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
        self._progress = Progress(*columns, console=Console(stderr=True), speed_estimate_period=600)
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, stage: str, *, total: int, done: int) -> None:
        """A new bar."""
        self._task = self._progress.add_task(stage, total=total, completed=done)

    def advance(self, rows: int) -> None:
        """Of the newest bar."""
        if self._task is not None:
            self._progress.advance(self._task, rows)

    def say(self, line: str) -> None:
        """Above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


def _reported(folder: RunFolder) -> dict[str, Any]:
    with folder.locked(), Console(stderr=True).status("report"):
        return write_report(folder)


def _absolute(folder: str | None) -> str | None:
    """Paths of the command line start where it was typed, not at the spec."""
    return None if folder is None else str(Path(folder).absolute())


def _several(found: dict[str, Any]) -> tuple[str, ...]:
    """Heads of the figures that only several samples of a prompt have."""
    return ("expected max", "any") if found["samples"] > 1 else ()


def _apart(score: dict[str, Any]) -> list[str]:
    cells = [_number(score["mean"]["value"], 3), _interval(score["change"], 3, signed=True)]
    if "any" in score:
        cells += [_number(score["expected_maximum"]["value"], 3), _share(score["any"]["value"])]
    return cells


def _interval(estimate: dict[str, float | None], digits: int, *, signed: bool = False) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return "-"
    sign = "+" if signed else ""
    if low is None or high is None:
        return f"{value:{sign}.{digits}f}"
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
