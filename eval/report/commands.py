"""python -m eval report runs/quick

`report` makes the report of a finished run from what is stored there, `equal` compares its methods where their text
costs the same, `compare` puts two runs side by side, `paper` puts runs of the paper's protocols beside its figures;
none needs a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.equal_fluency import BUDGET
from eval.report.compare import compare_runs, comparison_json, comparison_page
from eval.report.equal import equal_page
from eval.report.files import HTML, write_report
from eval.report.gathering import read_run
from eval.report.paper import paper_page
from eval.runner.folder import RunFolder
from eval.runner.parts import write_text
from steering.page.markdown import to_markdown
from steering.page.webpage import to_html


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `tiller eval`."""
    app.command("report")(report_command)
    app.command("equal")(equal_command)
    app.command("compare")(compare_command)
    app.command("paper")(paper_command)


def report_command(
    folder: Annotated[Path, typer.Argument(help="The --out of a finished run.")],
) -> None:
    """Make report.html, report.md and report.json of a finished run again, without generating or scoring.

    `run` and `rescore` end with this; it is for runs of an older release, and after the report itself has changed.

    Example: tiller eval report runs/quick
    """
    kept = RunFolder(folder)
    kept.table()  # a run that is not finished is refused before it is locked
    with kept.locked():
        found = write_report(kept)
    say(found, folder)


def equal_command(
    folder: Annotated[Path, typer.Argument(help="The --out of a finished run.")],
    budget: Annotated[float, typer.Option(help="Perplexity the text may have, in times the unsteered one.")] = BUDGET,
    against: Annotated[
        str | None, typer.Option(help="The method all are compared with, by its name in the table; first by default.")
    ] = None,
) -> None:
    """Compare the methods of one run where their text costs the same, rather than arm by arm.

    A method's settings are followed from unsteered on to where the text's perplexity has risen by the budget.

    Example: tiller eval equal runs/paper-toxicity --budget 1.1
    """
    page = equal_page(read_run(RunFolder(folder)), budget=budget, against=against)
    typer.echo(to_markdown(page), nl=False)


def compare_command(
    one: Annotated[Path, typer.Argument(metavar="A", help="The --out of a finished run.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same prompts.")],
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as a page to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write its figures to this file.")] = None,
) -> None:
    """Compare two runs arm by arm, B less A, on the prompts that both have.

    Arms are matched by name, prompts by set, id and text, judges by name and revision. Runs that were decoded
    differently are refused; what else does not compare is left out and named.

    Example: tiller eval compare runs/probe-1 runs/probe-2
    """
    found = compare_runs(read_run(RunFolder(one)), read_run(RunFolder(other)))
    page = comparison_page(found)
    typer.echo(to_markdown(page), nl=False)
    if html is not None:
        write_text(html, to_html(page))
    if json is not None:
        write_text(json, dumps(comparison_json(found), indent=2, allow_nan=False) + "\n")


def paper_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="The --out of runs of paper-toxicity, -sentiment and -language.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The Markdown file to write.")] = Path("eval/paper.md"),
) -> None:
    """Put the published figures of the LiSeCo paper beside those of our own runs of its protocols.

    What differs (models, scorers, n) stands first. A task of which no run is given is "not measured".

    Example: tiller eval paper runs/paper-toxicity runs/paper-sentiment --out eval/paper.md
    """
    page = paper_page([read_run(RunFolder(folder)) for folder in folders or []])
    write_text(out, to_markdown(page))
    typer.echo(f"written: {out}")


def say(found: Mapping[str, Any], folder: Path) -> None:
    """The verdict in a few lines, and where the rest is."""
    for claim in found["claims"]:
        typer.echo(f"claim: {claim}")
    if not found["claims"]:
        typer.echo("nothing may be claimed: no arm changed the text beyond chance, beyond its placebo, in whole text")
    for arm, violations in found["violations_of_promised_bounds"].items():
        if violations:
            typer.echo(f"a promised bound was violated at {violations} tokens: {arm}")
    for arm, left in found["degenerate"].items():
        typer.echo(f"degenerate text: {arm} ({', '.join(left)})")
    typer.echo(f"report: {folder / HTML}, a page for any browser; report.md and report.json say the same")
