"""python -m eval report runs/quick

`report` makes the report of a finished run from what is stored there, without a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.report.files import HTML, write_report
from eval.runner.folder import RunFolder


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `tiller eval`."""
    app.command("report")(report_command)


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
