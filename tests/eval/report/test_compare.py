"""Two runs side by side: what is paired, what is left out, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.report.compare import compare_runs, comparison_page
from eval.report.model import RunReport
from eval.runner.errors import SpecError
from eval.runner.folder import RunFolder
from steering.page.markdown import to_markdown

Report = Callable[..., RunReport]


@pytest.fixture
def two(planted_report: Report) -> Callable[..., tuple[RunReport, RunReport]]:
    """A run that relieves three in four hits, and one made otherwise."""
    return lambda **changed: (planted_report(name="a"), planted_report(name="b", **changed))


def test_a_run_does_not_differ_from_itself(planted_report: Report) -> None:
    run = planted_report()
    found = compare_runs(run, run)
    assert found.prompts == 80
    assert {one.arm for one in found.differences} == {"none", "prompt", "slab", "random as slab"}
    assert all(one.rate.change.value == one.mean.change.value == 0 for one in found.differences)
    assert all(one.perplexity is not None and one.perplexity.change.value == 0 for one in found.differences)
    assert "Nothing differs beyond chance." in to_markdown(comparison_page(found))


def test_the_second_less_the_first_by_prompt(two: Any) -> None:
    first, second = two(relieved=0.0)
    (slab,) = [one for one in compare_runs(first, second).differences if one.arm == "slab"]
    assert slab.rate.change.value == pytest.approx(slab.shares[1] - slab.shares[0])
    assert slab.rate.change.low > 0
    assert "**Beyond chance**: slab by judge." in to_markdown(comparison_page(compare_runs(first, second)))
    (back,) = [one for one in compare_runs(second, first).differences if one.arm == "slab"]
    assert back.rate.change.value == pytest.approx(-slab.rate.change.value)


def test_only_shared_prompts_are_paired_and_the_rest_is_named(two: Any) -> None:
    found = compare_runs(*two(prompts=30))
    assert found.prompts == 30
    assert "50 prompts of A only, left out." in found.notes


def test_perplexities_of_two_models_are_not_compared(two: Any) -> None:
    first, second = two(model="other")
    texts = replace(second, prompts=first.prompts)  # the made-up texts name their model
    found = compare_runs(first, texts)
    assert all(one.perplexity is None for one in found.differences)
    assert any("their perplexities do not compare" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"decoding": {"max_tokens": 9, "temperature": 1.0}}, "max_tokens is 6 in one and 9 in the other"),
        ({"samples": 2, "prompts": 10}, "one run has 1 samples of each prompt and the other 2"),
        ({"model": "other"}, "80 prompts of the same id but another text, first p000"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(changed: dict[str, Any], reason: str, two: Any) -> None:
    with pytest.raises(SpecError, match=reason):
        compare_runs(*two(**changed))


def test_a_judge_of_another_revision_is_no_common_judge(planted_report: Report) -> None:
    run = planted_report()
    later = replace(run.judges[0], card=replace(run.judges[0].card, revision="2"))
    with pytest.raises(SpecError, match="no judge scored both runs alike: judge is 1 in A and 2 in B"):
        compare_runs(run, replace(run, judges=(later,)))


def test_runs_without_a_common_prompt_are_refused(planted_report: Report) -> None:
    run = planted_report()
    with pytest.raises(SpecError, match="share no prompt"):
        compare_runs(run, replace(run, prompts={("lakes", "p1"): "Boat"}))


def test_the_command_prints_it_and_writes_what_is_asked(
    planted: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = planted("a"), planted("b", seed=1)
    html, figures = tmp_path / "compare.html", tmp_path / "compare.json"
    assert main(["compare", str(a.path), str(b.path), "--html", str(html), "--json", str(figures)]) == 0
    assert "| arm | share, A | share, B |" in capsys.readouterr().out
    assert "What differs" in html.read_text(encoding="utf-8")
    assert json.loads(figures.read_text(encoding="utf-8"))["prompts"] == 80
    assert main(["compare", str(a.path), str(tmp_path)]) == 2
