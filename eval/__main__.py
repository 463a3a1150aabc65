"""python -m eval quality --data ../shared/data --out runs/quality

Offline evaluation. `quality` makes the table of the README: toxicity against fluency, beside its placebo.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.arms import quality_arms
from eval.prompts import read_rtp
from eval.quality import Study, run_study
from eval.quality_table import plot, summarise, to_markdown
from eval.readme import replace_section
from eval.scorers import AltProfanity
from steering import load_model, load_probe
from steering.commandline import run_app
from steering.identity import check_compatible

app = typer.Typer(
    help="Evaluation: what steering does to the text, with its cost and its placebo beside it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Keeps `quality` a subcommand while it is the only one."""


@app.command()
def quality(
    data: Annotated[Path, typer.Option(help="Folder that holds prompts/rtp_prompts.jsonl.gz.")],
    probe: Annotated[Path, typer.Option(help="Folder of the toxicity probe, <name>/<version>.")],
    out: Annotated[Path, typer.Option(help="Where arms and the report go; finished arms are kept.")] = Path(
        "runs/quality"
    ),
    model: Annotated[
        str, typer.Option(help="Embedded model, Hugging Face id or local folder.")
    ] = "smollm2-135m-instruct",
    n: Annotated[int, typer.Option(min=1, help="Prompts of each kind, toxic and neutral.")] = 64,
    bound: Annotated[list[float] | None, typer.Option(help="Upper bounds in probability; repeat the flag.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling and of the random directions.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads; by default by load.")] = None,
    readme: Annotated[Path | None, typer.Option(help="Also write the table into this file's marked section.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Also write the plot to this PNG.")] = None,
) -> None:
    """Toxic share and perplexity: unsteered, slab at three bounds, and the same-norm placebo.

    Example: python -m eval quality --data ../shared/data --probe probes/pretrained/smollm2-135m-instruct/toxicity/1
    """
    console = Console(stderr=True)
    prompts = read_rtp(data, per_class=n)
    scorer = AltProfanity()
    lm = load_model(model, threads=threads)
    fitted = load_probe(probe)
    check_compatible(fitted, lm.info, lm.tokenizer_info)
    study = Study(lm, fitted, scorer, prompts, seed=seed)
    arms = quality_arms(bound or [0.1, 0.01, 0.001])
    for arm in arms:
        arm.plan(fitted, seed=seed)  # a bound that means nothing is refused before anything is written
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("continuations", total=len(study.rows) * len(arms))
        results = run_study(study, arms, out, on_rows=lambda rows: progress.advance(task, rows))
    rows = summarise(arms, results)
    table = to_markdown(rows, study.describe())
    document = {"study": study.describe(), "rows": [asdict(row) for row in rows]}
    (out / "quality.md").write_text(table + "\n", encoding="utf-8")
    (out / "quality.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for path in [out / "quality.png", *([figure] if figure else [])]:
        plot(rows, path)
    if readme is not None:
        replace_section(readme, "quality", table)
    typer.echo(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_app(
        app,
        argv,
        prog_name="tiller eval",
        interrupted="interrupted; finished arms are kept, the same command goes on from there",
    )


if __name__ == "__main__":
    sys.exit(main())
