"""The report on disk: report.html by itself, report.md with its plots beside it, report.json for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from eval.figures import plain_values, report
from eval.report.content import page_of
from eval.report.equal import equal_views
from eval.report.gathering import read_run
from eval.report.model import RunReport
from eval.runner.folder import RunFolder
from eval.runner.parts import kept_whole, write_text
from steering.page.markdown import to_markdown
from steering.page.theme import png
from steering.page.webpage import to_html

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


def write_report(folder: RunFolder) -> dict[str, Any]:
    """Make the report of a finished run from what is stored there, and return what `report.json` holds.

    Raises SpecError when the run is not finished, RunStopped when the folder cannot be written.
    """
    run = read_run(folder)
    figures = report(folder.table(), run.identity, neutral=folder.neutral(), left_out=run.left_out)
    document = figures | as_json(run)
    page = page_of(run)
    with kept_whole(folder.path):
        for picture in page.pictures:
            png(picture.draw, folder.path / picture.file)
    write_text(folder.path / HTML, to_html(page))
    write_text(folder.path / MARKDOWN, to_markdown(page))
    folder.write(JSON, document)
    return document


def as_json(run: RunReport) -> dict[str, Any]:
    """What the figures of the arms do not say: verdicts, judges, flows, readings by layer."""
    found: dict[str, Any] = plain_values(
        {
            "claims": [verdict.claim for verdict in run.verdicts if verdict.stands],
            "comparisons": [
                {
                    "arm": verdict.evidence.arm,
                    "judge": verdict.evidence.judge,
                    "measure": verdict.evidence.measure,
                    "wanted": verdict.evidence.aim,
                    "stands": verdict.stands,
                    "failed": verdict.failed,
                    "caveats": verdict.caveats,
                    "against_unsteered": asdict(verdict.evidence.against_unsteered),
                    "against_placebo": None
                    if verdict.evidence.against_placebo is None
                    else asdict(verdict.evidence.against_placebo),
                    "p_holm": verdict.p_holm,
                    "tests": verdict.tests,
                }
                for verdict in run.verdicts
            ],
            "judges": [
                asdict(judge.card)
                | {
                    "threshold": judge.threshold,
                    "wanted": judge.aim,
                    "validated": [asdict(v) for v in judge.validations],
                }
                for judge in run.judges
            ],
            "equal_fluency": [asdict(found) | {"judge": found.judge.name} for found in equal_views(run)],
            "degenerate": {arm.name: list(arm.degenerate) for arm in run.arms if arm.degenerate},
            "violations_of_promised_bounds": {arm.name: arm.broken for arm in run.arms if arm.kind == "steered"},
            "flows": {arm.name: {name: asdict(flow) for name, flow in arm.flows.items()} for arm in run.arms[1:]},
            "layers": [asdict(reading) for reading in run.layers],
            "provenance": _where(run.provenance),
        }
    )
    return found


def _where(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Without what `run.json` says already."""
    return {name: value for name, value in provenance.items() if name != "identity"}
