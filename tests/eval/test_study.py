"""A study with many controllers on a tiny model: the same measures for all, kept as it goes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval import study as study_module
from eval.arms import Arm, with_placebos
from eval.fluency import conditional_perplexity
from eval.grid import controller_arms, usable
from eval.study import NEW_TOKENS, TOP_P, Study, run_arm, run_study
from steering import Request, Sampling, generate
from steering.controllers.base import Settings
from steering.requests import encode


def test_every_controller_and_its_placebo_write_every_prompt(fitted_study: Study, tmp_path: Path) -> None:
    arms, _ = usable(controller_arms(fitted_study.probe), fitted_study.probe, fitted_study.lm)
    every = with_placebos(arms)
    results = run_study(fitted_study, every, tmp_path)
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {arm.file_name for arm in every}
    for arm in every:
        samples = results[arm.name]
        assert [(sample.kind, sample.prompt) for sample in samples] == [row[:2] for row in fitted_study.rows]
        assert all(sample.perplexity > 1 for sample in samples)
        assert any(sample.edited for sample in samples) == (arm.controller not in ("none", "prompt")), arm.name


def test_matching_means_is_adding_their_difference(fitted_study: Study) -> None:
    for share in (0.5, 1.0):
        added = run_arm(fitted_study, Arm("additive", settings=Settings(coefficient=share)))
        matched = run_arm(fitted_study, Arm("affine-mean", strength=share))
        assert str(added) == str(matched)
        assert any(sample.edited for sample in added)


def test_an_instructed_text_is_scored_alone_and_its_perplexity_is_behind_the_plain_prompt(study: Study) -> None:
    """Against a plain loop that does the same one prompt at a time."""
    arm = Arm("prompt", instruction="avoid toxicity")
    samples = run_arm(study, arm)
    for at, (sample, (_, _, text)) in enumerate(zip(samples, study.rows, strict=True)):
        given = arm.prompt(text, study.lm.tokenizer)
        (written,) = generate(study.lm, [Request(given, Sampling(max_tokens=NEW_TOKENS, top_p=TOP_P, seed=at))])
        plain = encode(study.lm, text, max_tokens=NEW_TOKENS)
        expected, under_instruction = conditional_perplexity(
            study.lm, [(plain, written.token_ids), (list(given), written.token_ids)]
        )
        assert sample.perplexity == pytest.approx(expected, rel=1e-4)
        assert sample.perplexity != pytest.approx(under_instruction, rel=1e-3)
        assert sample.score == study.scorer.score([written.text])[0]


def test_an_interrupted_arm_has_left_its_finished_batches_and_is_done_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "BATCH", 2)
    whole = run_study(study, [Arm("none")], tmp_path / "whole")

    def score(texts: list[str]) -> list[float]:
        if (tmp_path / "out/none.partial").read_text(encoding="utf-8").count("\n") == 4:
            raise KeyboardInterrupt
        return study.scorer.score(texts)

    broken = SimpleNamespace(card=study.scorer.card, score=score)
    with pytest.raises(KeyboardInterrupt):
        run_study(replace(study, scorer=broken), [Arm("none")], tmp_path / "out")
    left = (tmp_path / "out/none.partial").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt"] for line in left] == [0, 1, 2, 0]
    assert not (tmp_path / "out/none.jsonl").exists()
    assert str(run_study(study, [Arm("none")], tmp_path / "out")) == str(whole)
    assert not (tmp_path / "out/none.partial").exists()


def test_progress_names_each_arm_and_counts_each_sample(study: Study, tmp_path: Path) -> None:
    arms = [Arm("none"), Arm("ablate", settings=Settings(source="weight"))]
    for _ in ("written", "read back"):
        names: list[str] = []
        counts: list[int] = []
        run_study(study, arms, tmp_path, on_arm=names.append, on_rows=counts.append)
        assert names == ["none", "ablate weight"]
        assert sum(counts) == 2 * len(study.rows)


def test_samples_kept_before_repetition_was_measured_can_be_read(study: Study, tmp_path: Path) -> None:
    run_study(study, [Arm("none")], tmp_path)
    path = tmp_path / "none.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(0 <= row.pop("repetition") < 1 for row in rows)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    again = run_study(study, [Arm("none")], tmp_path)["none"]
    assert all(math.isnan(sample.repetition) for sample in again)
