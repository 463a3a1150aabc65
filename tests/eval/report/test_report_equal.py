"""At equal fluency in a report: arms that differ in strength alone are one method, weakest first, whole text only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.report.equal import at_equal_fluency, equal_section, equal_table, methods
from eval.report.files import write_report
from eval.report.model import RunReport
from eval.report.words import plain
from eval.runner.errors import SpecError
from eval.runner.folder import RunFolder
from eval.statistics import Estimate
from steering.page.document import Paragraph

Planted = Callable[..., RunFolder]
Report = Callable[..., RunReport]


def with_arms(run: RunReport, *arms: tuple[str, dict[str, Any], float, tuple[str, ...]]) -> RunReport:
    """`run` with the arm `slab` once for each of name, changes of its constraint, dose, and what is broken."""
    (held,) = next(arm for arm in run.identity["arms"] if arm["name"] == "slab")["constraints"]
    slab, identities, reports, records = run.arm("slab"), list(run.identity["arms"]), list(run.arms), dict(run.records)
    for name, changes, dose, degenerate in arms:
        identities.append({"name": name, "instruction": None, "constraints": [held | changes], "placebo_of": None})
        steered = {probe: replace(one, mean_dose=dose) for probe, one in slab.summary.steered.items()}
        summary = replace(slab.summary, steered=steered)
        reports.append(replace(slab, name=name, placebo=None, summary=summary, degenerate=degenerate))
        records[name] = tuple(replace(record, arm=name) for record in run.records["slab"])
    return replace(run, identity={**run.identity, "arms": identities}, arms=tuple(reports), records=records)


def test_arms_that_differ_in_how_hard_they_push_are_one_method_and_the_weakest_is_first(planted_report: Report) -> None:
    run = with_arms(
        planted_report(),
        ("loose", {"upper": 0.5}, 0.05, ()),
        ("tight", {"upper": 0.01}, 0.4, ()),
        ("spread", {"metric": "whitened"}, 0.3, ()),
        ("one layer", {"layers": [2]}, 0.3, ()),
    )
    found = {name: [arm.name for arm in path] for name, path in methods(run).items()}
    assert found == {
        "slab euclidean layers 1-3": ["loose", "slab", "tight"],
        "slab whitened layers 1-3": ["spread"],
        "slab euclidean layers 2": ["one layer"],
    }


def test_a_budget_is_another_method_and_not_a_weaker_setting(planted_report: Report) -> None:
    run = with_arms(planted_report(), ("capped", {"max_dose": 0.05}, 0.05, ()), ("less", {"max_dose": 0.02}, 0.02, ()))
    found = {name: [arm.name for arm in path] for name, path in methods(run).items()}
    assert found == {"slab euclidean": ["slab"], "slab euclidean within a budget": ["less", "capped"]}


def test_a_path_of_placebos_leaves_out_arms_that_have_none(planted_report: Report) -> None:
    run = with_arms(planted_report(), ("loose", {"upper": 0.5}, 0.05, ()))
    found = at_equal_fluency(run, run.judges[0])
    assert [arm.name for arm in methods(run)["slab euclidean"]] == ["loose", "slab"]
    assert found.placebos["slab euclidean"].settings == ("random as slab",)


def test_names_are_short_where_controller_and_metric_tell_methods_apart(planted_report: Report) -> None:
    run = with_arms(planted_report(), ("spread", {"metric": "whitened"}, 0.3, ()))
    assert list(methods(run)) == ["slab euclidean", "slab whitened"]


def test_a_path_ends_before_the_first_setting_whose_text_is_broken(planted_report: Report) -> None:
    run = with_arms(
        planted_report(),
        ("broken", {"upper": 0.01}, 0.4, ("repetition 0.00 -> 0.90",)),
        ("beyond", {"upper": 0.001}, 0.9, ()),
    )
    assert [arm.name for arm in methods(run)["slab euclidean"]] == ["slab"]


def test_a_method_that_breaks_the_text_at_once_is_named(planted_report: Report) -> None:
    run = with_arms(planted_report(), ("wild", {"metric": "whitened"}, 0.4, ("perplexity 20.0 -> 90.0",)))
    assert list(methods(run)) == ["slab euclidean"]
    section = equal_section(run)
    assert section is not None
    said = [plain(block.words) for block in section.blocks if isinstance(block, Paragraph)]
    assert "Not in it: slab whitened; its weakest setting broke the text." in said


def test_what_was_planted_is_found_beside_its_placebo(planted_report: Report) -> None:
    run = planted_report(prompts=200)
    found = at_equal_fluency(run, run.judges[0])
    (method,) = found.methods
    assert method.relief.low > 0.1
    assert not method.stop.spent
    assert isinstance(found.placebos["slab euclidean"].relief, Estimate)
    assert abs(found.placebos["slab euclidean"].relief.value) < method.relief.value / 2
    assert found.beyond["slab euclidean"].difference.low > 0
    assert found.contests == {}


def test_nothing_is_compared_where_nothing_can_be(planted_report: Report) -> None:
    run = planted_report()
    silent = replace(run, judges=tuple(replace(judge, aim=None) for judge in run.judges))
    assert equal_section(silent) is None
    with pytest.raises(SpecError, match="nothing is asked of judge"):
        at_equal_fluency(silent, silent.judges[0])


def test_the_command_prints_it_at_a_budget_of_ones_own(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    folder = planted()
    assert main(["equal", str(folder.path), "--budget", "1.2"]) == 0
    said = capsys.readouterr().out
    assert "until its text costs 20% more" in said
    assert "| slab euclidean |" in said
    assert main(["equal", str(folder.path), "--against", "paper"]) == 2
    assert "there is no method 'paper'; there are: slab euclidean" in capsys.readouterr().err
    assert main(["equal", str(folder.path), "--budget", "1"]) == 2
    assert "expected a factor above 1" in capsys.readouterr().err


def test_programs_find_it_in_the_report(planted: Planted) -> None:
    folder: RunFolder = planted()
    write_report(folder)
    path: Path = folder.path / "report.json"
    (found,) = json.loads(path.read_text(encoding="utf-8"))["equal_fluency"]
    assert found["judge"] == "judge"
    assert found["budget"] == 1.05
    assert [method["method"] for method in found["methods"]] == ["slab euclidean"]


def test_a_share_of_nothing_is_not_told(planted_report: Report) -> None:
    """Where the unsteered score is 0 on some resampled prompts, the interval of the share has no end."""
    run = planted_report()
    found = at_equal_fluency(run, run.judges[0])
    column = equal_table(found).header.index("of unsteered")
    bare = replace(found, methods=tuple(replace(one, share=Estimate(8.3, 2.4, math.nan)) for one in found.methods))
    assert [plain(row[column]) for row in equal_table(bare).rows] == ["-" for _ in found.methods]
    assert all("%" in plain(row[column]) for row in equal_table(found).rows)
