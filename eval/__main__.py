"""python -m eval quality --data ../shared/data --probe probes/pretrained/smollm2-135m-instruct/toxicity/1

Offline evaluation. `run` carries out a spec, `rescore` judges its samples anew (`eval.runner`); both end in a report,
which `report` makes again (`eval.report`). `quality` makes the first table of `docs/effect.md`: toxicity against
fluency, beside its placebo. `controllers` puts every controller beside the slab.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval import controllers_plot, controllers_table
from eval.arms import Arm, quality_arms, with_placebos
from eval.comparison import compare
from eval.grid import controller_arms, usable
from eval.prompts import read_rtp
from eval.quality_table import plot, summarise, to_markdown
from eval.readme import replace_section
from eval.report import commands as report_commands
from eval.runner import commands
from eval.sample import Sample
from eval.study import Study, run_study
from steering import load_model, load_probe
from steering.commandline import run_app
from steering.identity import check_compatible
from steering.scorers import AltProfanity

app = typer.Typer(
    help="Evaluation: what steering does to the text, with its cost and its placebo beside it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
commands.register(app)
report_commands.register(app)

Data = Annotated[Path, typer.Option(help="Folder that holds prompts/rtp_prompts.jsonl.gz.")]
ProbeFolder = Annotated[Path, typer.Option(help="Folder of the toxicity probe, <name>/<version>.")]
Out = Annotated[Path, typer.Option(help="Where arms and the report go; finished arms are kept.")]
Model = Annotated[str, typer.Option(help="Embedded model, Hugging Face id or local folder.")]
PerKind = Annotated[int, typer.Option("--n", min=1, help="Prompts of each kind, toxic and neutral.")]
Seed = Annotated[int, typer.Option(min=0, help="Of sampling and of the random directions.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Torch threads; by default by load.")]
Readme = Annotated[Path | None, typer.Option(help="Also write the table into this file's marked section.")]
Picture = Annotated[Path | None, typer.Option(help="Also write the plot to this PNG.")]


@app.command()
def quality(
    data: Data,
    probe: ProbeFolder,
    out: Out = Path("runs/quality"),
    model: Model = "smollm2-135m-instruct",
    n: PerKind = 64,
    bound: Annotated[list[float] | None, typer.Option(help="Upper bounds in probability; repeat the flag.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
    readme: Readme = None,
    figure: Picture = None,
) -> None:
    """Toxic share and perplexity: unsteered, slab at three bounds, and the same-norm placebo.

    Layers and metric are the probe's defaults.

    Example: python -m eval quality --data ../shared/data --probe probes/pretrained/smollm2-135m-instruct/toxicity/1
    """
    study = _study(data, probe, model=model, n=n, seed=seed, threads=threads)
    arms = quality_arms(bound or [0.1, 0.01, 0.001], metric=study.probe.manifest.default.metric)
    for arm in arms:
        arm.plan(study.probe, seed=seed)  # a bound that means nothing is refused before anything is written
    rows = summarise(arms, _run(study, arms, out))
    table = to_markdown(rows, study.describe())
    document = {"study": study.describe(), "rows": [asdict(row) for row in rows]}
    _publish("quality", out, table, document, picture=partial(plot, rows), figure=figure, readme=readme)


@app.command()
def controllers(
    data: Data,
    probe: ProbeFolder,
    out: Out = Path("runs/controllers"),
    model: Model = "smollm2-135m-instruct",
    n: PerKind = 64,
    only: Annotated[list[str] | None, typer.Option(help="Controllers to run; repeat the flag.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
    readme: Readme = None,
    figure: Picture = None,
) -> None:
    """Every controller beside the slab, each with its own same-norm placebo, and the instruction in the prompt.

    Example: python -m eval controllers --data ../shared/data --probe probes/pretrained/smollm2-135m-instruct/toxicity/1
    """
    only = only or []
    study = _study(data, probe, model=model, n=n, seed=seed, threads=threads)
    arms, skipped = usable(controller_arms(study.probe, only=only), study.probe, study.lm)
    rows = compare(arms, _run(study, with_placebos(arms), out))
    table = controllers_table.to_markdown(rows, skipped, study.describe(), only=only)
    document = {
        "study": study.describe(),
        "only": only,
        "rows": [asdict(row) for row in rows],
        "skipped": [asdict(arm) for arm in skipped],
        "verdict": controllers_table.verdict(rows),
    }
    picture = partial(controllers_plot.plot, rows)
    _publish("controllers", out, table, document, picture=picture, figure=figure, readme=readme)


def _study(data: Path, probe: Path, *, model: str, n: int, seed: int, threads: int | None) -> Study:
    prompts = read_rtp(data, per_class=n)
    scorer = AltProfanity()
    lm = load_model(model, threads=threads)
    fitted = load_probe(probe)
    check_compatible(fitted, lm.info, lm.tokenizer_info)
    return Study(lm, fitted, scorer, prompts, seed=seed)


def _run(study: Study, arms: Sequence[Arm], out: Path) -> dict[str, list[Sample]]:
    """All arms behind a progress bar with an estimate."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as progress:
        task = progress.add_task("continuations", total=len(study.rows) * len(arms))
        return run_study(
            study,
            arms,
            out,
            on_arm=lambda name: progress.update(task, description=name),
            on_rows=lambda rows: progress.advance(task, rows),
        )


def _publish(
    name: str,
    out: Path,
    table: str,
    document: dict[str, Any],
    *,
    picture: Callable[[Path], None],
    figure: Path | None,
    readme: Path | None,
) -> None:
    """`name`.md, .json and .png in `out`, the plot and the table also where else they are wanted; then the table."""
    (out / f"{name}.md").write_text(table + "\n", encoding="utf-8")
    plain = json.dumps(_without_nan(document), indent=2, allow_nan=False)
    (out / f"{name}.json").write_text(plain + "\n", encoding="utf-8")
    for path in [out / f"{name}.png", *([figure] if figure else [])]:
        picture(path)
    if readme is not None:
        replace_section(readme, name, table)
    typer.echo(table)


def _without_nan(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_app(
        app,
        argv,
        prog_name="tiller eval",
        interrupted="interrupted; what is finished is kept, the same command goes on from there",
    )


if __name__ == "__main__":
    sys.exit(main())
