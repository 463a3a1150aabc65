"""The paper's figures beside ours: taken from the file, matched by setting, and never invented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.report.model import RunReport
from eval.report.paper import paper_page, published
from eval.runner.errors import SpecError
from steering.page.markdown import to_markdown

Report = Callable[..., RunReport]


def named(run: RunReport, spec: str, **held: object) -> RunReport:
    """The run as one of `spec`, its steered arm with another constraint."""
    arms = [arm | {"constraints": [one | held for one in arm["constraints"]]} for arm in run.identity["arms"]]
    return replace(run, identity=run.identity | {"spec": spec, "arms": arms})


def rows(text: str, setting: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {setting} |")]


def test_without_a_run_everything_of_ours_is_not_measured() -> None:
    text = to_markdown(paper_page([]))
    assert text.count("Ours: not measured.") == 3
    for line in rows(text, "LiSeCo 0.01"):
        assert line.endswith("| not measured | not measured |")
    assert "tiller eval run paper-toxicity --out runs/paper-toxicity --data DATA" in text


def test_published_figures_are_those_of_the_file_with_their_source() -> None:
    known, text = published(), to_markdown(paper_page([]))
    assert "llm-control at commit 2369ac2" in text
    assert known["tasks"]["paper-toxicity"]["rows"]["LiSeCo 0.1"][1] == [0.238, 2.14]
    assert "| 0.303 / 4.38 | 0.238 / 2.14 | 0.352 / 4.40 | - |" in text
    for task in known["tasks"].values():
        assert all(len(cells) == len(task["models"]) for cells in task["rows"].values())


def test_our_arm_stands_beside_the_same_setting_and_no_other(planted_report: Report) -> None:
    run = named(planted_report(), "paper-toxicity", upper=0.05)
    text = to_markdown(paper_page([run]))
    (mine,) = rows(text, "LiSeCo 0.05")
    assert "20.1 [20.1, 20.1]" in mine
    assert all(line.endswith("| not measured | not measured |") for line in rows(text, "LiSeCo 0.1"))
    assert text.count("Ours: not measured.") == 2
    assert "| slab | " in text


@pytest.mark.parametrize("held", [{"metric": "whitened"}, {"layers": [1]}, {"controller": "capping"}])
def test_another_method_with_the_same_bound_is_not_the_papers(held: dict[str, object], planted_report: Report) -> None:
    run = named(planted_report(), "paper-toxicity", upper=0.05, **held)
    (line,) = rows(to_markdown(paper_page([run])), "LiSeCo 0.05")
    assert line.endswith("| not measured | not measured |")


def test_a_bound_on_the_negative_is_one_on_the_positive_from_below(planted_report: Report) -> None:
    run = named(planted_report(), "paper-sentiment", upper=None, lower=0.9)
    (_, mine) = rows(to_markdown(paper_page([run])), "LiSeCo 0.1")
    assert "20.1 [20.1, 20.1]" in mine


def test_other_specs_and_two_of_one_are_refused(planted_report: Report) -> None:
    run = planted_report()
    with pytest.raises(SpecError, match="'planted' is no spec of the paper"):
        paper_page([run])
    ours = named(run, "paper-toxicity")
    with pytest.raises(SpecError, match="two runs of paper-toxicity"):
        paper_page([ours, ours])


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "paper.md"
    assert main(["paper", "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").startswith("# The paper's figures beside ours")
    assert "written" in capsys.readouterr().out
