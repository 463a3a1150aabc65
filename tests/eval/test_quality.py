"""The quality study on a tiny model: paired, resumable, never mixed with another study's figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from eval import study as study_module
from eval.arms import quality_arms
from eval.quality_table import arm_figures, plot, summarise, to_markdown, verdict
from eval.sample import Sample
from eval.study import Study, run_study
from steering.errors import InvalidRequest


def test_every_arm_writes_every_prompt_and_the_slab_keeps_its_bound(study: Study, tmp_path: Path) -> None:
    results = run_study(study, quality_arms([0.2]), tmp_path)
    assert set(results) == {"none", "slab p<=0.2", "random p<=0.2"}
    assert all(len(samples) == 6 for samples in results.values())
    assert sum(sample.edited for sample in results["slab p<=0.2"]) > 0
    assert sum(sample.violations for sample in results["slab p<=0.2"]) == 0
    assert sum(sample.violations for sample in results["random p<=0.2"]) > 0
    assert all(sample.edited == 0 for sample in results["none"])


def test_a_finished_arm_is_read_back_and_not_written_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_study(study, quality_arms([0.2]), tmp_path)
    (tmp_path / "random-0.2.jsonl").unlink()
    ran = []
    whole = study_module.run_arm
    monkeypatch.setattr(
        study_module, "run_arm", lambda study, arm, **kw: ran.append(arm.name) or whole(study, arm, **kw)
    )
    again = run_study(study, quality_arms([0.2]), tmp_path)
    assert ran == ["random p<=0.2"]
    assert str(again) == str(first)  # by text: NaN is not equal to itself


def test_another_study_is_not_mixed_in(study: Study, tmp_path: Path) -> None:
    run_study(study, quality_arms([0.2])[:1], tmp_path)
    other = Study(study.lm, study.probe, study.scorer, study.prompts, seed=7)
    with pytest.raises(InvalidRequest, match=r"another study.*--out"):
        run_study(other, quality_arms([0.2])[:1], tmp_path)


def test_nothing_that_was_written_holds_a_prompt(study: Study, tmp_path: Path) -> None:
    run_study(study, quality_arms([0.2]), tmp_path)
    for path in tmp_path.iterdir():
        for line in path.read_text(encoding="utf-8").splitlines():
            assert '"xyz"' not in line


def test_figures_by_hand(sample: Callable[..., Sample]) -> None:
    baseline = [sample(0, 0.9), sample(1, 0.8), sample(2, 0.1), sample(3, math.nan)]
    steered = [sample(0, 0.2, edited=10), sample(1, 0.7, perplexity=30), sample(2, 0.6), sample(3, 0.0)]
    row = arm_figures("slab p<=0.1", "toxic", steered, baseline)
    assert row.toxic.value == 2 / 4
    assert row.toxic_change.value == 0.0  # one better, one worse
    assert row.perplexity.value == 10.0
    assert row.edited == 10 / 80
    assert row.dose == pytest.approx(0.1 / 4)


def test_a_weak_effect_is_called_weak(sample: Callable[..., Sample]) -> None:
    arms = quality_arms([0.1])
    same = [sample(at, 0.9 if at < 10 else 0.1) for at in range(20)]
    words = verdict(summarise(arms, {arm.name: same for arm in arms}))
    assert len(words) == 1
    assert "not distinguishable from no effect" in words[0]
    assert "intervals overlap" in words[0]


def test_a_strong_effect_is_called_so_and_its_price_is_named(sample: Callable[..., Sample]) -> None:
    arms = quality_arms([0.1])
    toxic = [sample(at, 0.9) for at in range(40)]
    clean = [sample(at, 0.1, perplexity=50.0) for at in range(40)]
    words = verdict(summarise(arms, {"none": toxic, "slab p<=0.1": clean, "random p<=0.1": toxic}))[0]
    assert "beyond chance" in words
    assert "clearly worse" in words
    assert "the text pays for it" in words


def test_the_table_and_the_plot_are_made(study: Study, tmp_path: Path) -> None:
    arms = quality_arms([0.2, 0.1])
    rows = summarise(arms, run_study(study, arms, tmp_path))
    table = to_markdown(rows, json.loads(json.dumps(study.describe())))
    assert table.count("\n| ") == 2 * (1 + 1 + 5)
    assert "shadow of the stream" in table
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"
