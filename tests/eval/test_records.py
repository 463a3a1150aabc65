"""Rows of a run, by arm and prompt; an arm's figures from them; and the evidence, end to end on planted effects."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.claim import judge
from eval.evidence import Question, gather
from eval.record import Record, by_prompt, read_records, scores_of
from eval.summary import summarise_arm
from steering.errors import InvalidRequest
from steering.manifest import Lookahead
from steering.scorers import ScorerCard

CARD = ScorerCard("judge", "ruler", "1", "nothing", "toxic")
STEERING = {
    "probes": {
        "toxicity@1": {
            "max_pre": 0.9, "max_post": 0.1, "min_pre": 0.0, "min_post": 0.0, "tokens": 8, "edited": 4, "capped": 0,
            "infeasible": 0, "violations": 0, "mean_dose": 0.1, "max_dose": 0.2, "promised": True,
        }
    }
}  # fmt: skip


def row(arm: str, prompt: int, score: float | None, *, sample: int = 0, **changes: Any) -> dict[str, Any]:
    """As `samples.parquet` holds it."""
    return {
        "arm": arm,
        "prompt_id": f"p{prompt:03}",
        "prompt_set": "made-up",
        "stratum": "toxic" if prompt % 2 else None,
        "sample": sample,
        "seed": 7,
        "continuation": f"the boat number {prompt} sails by",
        "token_ids": [prompt, 1, 2, 3, 4, 5],
        "finish_reason": "length",
        "prompt_tokens": 5,
        "steering": None if arm == "none" else json.dumps(STEERING),
        "seconds": 0.5,
        "logprob_sum": -18.0,
        "logprob_tokens": 6,
        "score.judge": score,
        **changes,
    }


def run(prompts: int = 80, seed: int = 0) -> list[dict[str, Any]]:
    """Planted: `slab` relieves three in four toxic texts, its placebo `random` moves texts both ways."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        bad = rng.uniform() < 0.4
        relieved, again = rng.uniform() < 0.75, rng.uniform() < 0.4
        scores = {"none": bad, "slab": bad and not relieved, "random": again}
        rows += [row(arm, prompt, 0.9 if hit else 0.1) for arm, hit in scores.items()]
    return rows


def test_a_row_becomes_a_record_with_its_perplexity_and_scores() -> None:
    record = Record.from_row(row("slab", 3, 0.25))
    assert (record.key, record.stratum, record.scores) == (("made-up", "p003"), "toxic", {"judge": 0.25})
    assert record.perplexity == pytest.approx(math.exp(3.0))
    assert record.repetition == 0.0
    assert record.steering == STEERING
    empty = Record.from_row(row("none", 2, None, token_ids=[], logprob_sum=0.0, logprob_tokens=0))
    assert empty.steering is None
    assert all(math.isnan(value) for value in (empty.perplexity, empty.repetition, empty.scores["judge"]))


def test_rows_come_back_from_parquet_as_they_went(tmp_path: Path) -> None:
    rows = [row("none", 1, math.nan), row("slab", 1, 0.5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "samples.parquet")
    read = read_records(pq.read_table(tmp_path / "samples.parquet").to_pylist())
    assert read["slab"] == [Record.from_row(rows[1])]
    assert math.isnan(read["none"][0].scores["judge"])


def test_arms_line_up_whatever_the_order_of_the_rows() -> None:
    rows = [row("slab", p, 0.1, sample=s) for p in (2, 1) for s in (1, 0)]
    records = read_records(rows)["slab"]
    assert [(record.prompt_id, record.sample) for record in records] == [
        ("p001", 0), ("p001", 1), ("p002", 0), ("p002", 1),
    ]  # fmt: skip
    assert by_prompt(records, [1.0, 2.0, 3.0, 4.0]) == {
        ("made-up", "p001"): [1.0, 2.0],
        ("made-up", "p002"): [3.0, 4.0],
    }


def test_a_missing_column_a_double_sample_and_an_absent_scorer_are_named() -> None:
    with pytest.raises(InvalidRequest, match="no column 'arm'"):
        Record.from_row({"prompt_id": "p1"})
    with pytest.raises(InvalidRequest, match="sample 0 of prompt 'p001'"):
        read_records([row("none", 1, 0.1), row("none", 1, 0.2)])
    with pytest.raises(InvalidRequest, match="'vader' did not score every sample; scores by judge"):
        scores_of(read_records([row("none", 1, 0.1)])["none"], "vader")


def test_an_arms_figures_are_those_of_its_rows() -> None:
    rows = [row("slab", p, [0.2, 0.6, 0.7, None][p], seconds=1.0) for p in range(4)]
    found = summarise_arm(read_records(rows)["slab"], ["judge"])
    scores = found.scores["judge"]
    assert (found.arm, found.prompts, found.samples, scores.unscored) == ("slab", 4, 4, 1)
    assert scores.mean.value == pytest.approx(0.5)
    assert scores.rate.value == pytest.approx(2 / 3)
    assert scores.expected_maximum == pytest.approx(scores.mean.value)
    assert found.perplexity.value == pytest.approx(math.exp(3.0))
    assert found.pooled_perplexity == pytest.approx(math.exp(3.0))
    assert found.distinct[0] == pytest.approx(6 / 24), "the tokens 0 to 5, in four texts of six"
    assert (found.length, found.ended, found.unique) == (6.0, 0.0, 1.0)
    assert found.tokens_per_second == pytest.approx(6.0)
    assert found.steered["toxicity@1"].edited == 0.5


def test_several_samples_of_a_prompt_are_drawn_together() -> None:
    rows = [row("none", p, 0.9 if p < 4 else 0.1, sample=s) for p in range(8) for s in range(25)]
    found = summarise_arm(read_records(rows)["none"], ["judge"]).scores["judge"]
    assert found.rate.value == 0.5
    assert found.rate.high - found.rate.low > 0.5, "eight prompts, not two hundred"
    assert found.expected_maximum == pytest.approx(0.5)


def test_below_the_threshold_is_the_mirror_image() -> None:
    rows = [row("none", p, score) for p, score in enumerate([0.2, 0.5, 0.8])]
    found = summarise_arm(read_records(rows)["none"], ["judge"], sides={"judge": "below"}).scores["judge"]
    assert found.rate.value == found.hit_probability == pytest.approx(1 / 3)


def test_no_record_has_no_figures() -> None:
    found = summarise_arm([], ["judge"])
    assert (found.prompts, found.samples) == (0, 0)
    assert all(math.isnan(value) for value in (*found.perplexity, found.length, *found.scores["judge"].rate))


def test_a_planted_effect_is_claimed_and_its_placebo_is_not(make_probe: Any, lm: Any) -> None:
    question = Question(CARD, "lower", "toxic")
    manifests = {"slab": [make_probe(lm).manifest], "random": [make_probe(lm).manifest]}
    records = read_records(run())
    verdict, sham = judge(gather(records, {"slab": "random", "random": None}, [question], manifests=manifests))
    assert verdict.stands, verdict.failed
    assert not sham.stands


def test_the_labeller_of_the_probe_and_broken_text_cost_the_claim(make_probe: Any, lm: Any) -> None:
    ahead = Lookahead(
        horizon=8, labeller="judge 1", threshold=0.5, prompts=1, continuations=1, tokens=1, corpus_share=0, iterations=1
    )
    plain = make_probe(lm).manifest
    rows = [
        r | {"token_ids": [9] * 30, "logprob_sum": -3.0, "logprob_tokens": 30} if r["arm"] == "slab" else r
        for r in run()
    ]
    (verdict,) = judge(
        gather(
            read_records(rows),
            {"slab": "random"},
            [Question(CARD, "lower", "toxic")],
            manifests={"slab": [plain, plain.model_copy(update={"lookahead": ahead})]},
        )
    )
    words = "; ".join(verdict.failed)
    assert "judge labelled the states" in words
    assert "perplexity 20.1 -> 1.1" in words
    assert "repetition 0.00 ->" in words
    assert "length 6.0 -> 30.0" in words


def test_a_mean_is_judged_too_and_an_absent_arm_is_named() -> None:
    records = read_records(run())
    (found,) = gather(records, {"slab": "random"}, [Question(CARD, "lower", "toxic", measure="mean")], manifests={})
    assert found.against_unsteered.change.high < 0
    assert judge([replace(found)])[0].stands
    with pytest.raises(InvalidRequest, match="no arm 'capping'"):
        gather(records, {"capping": None}, [Question(CARD, "lower", "toxic")], manifests={})


@pytest.mark.slow
def test_where_nothing_works_hardly_any_grid_yields_a_claim() -> None:
    rng = np.random.default_rng(8)
    names = [f"arm {at}" for at in range(6)]
    claimed = 0
    for _ in range(60):
        rows = [
            row(arm, prompt, 0.9 if rng.uniform() < 0.3 else 0.1)
            for arm in ["none", "random", *names]
            for prompt in range(64)
        ]
        grid = gather(
            read_records(rows), dict.fromkeys(names, "random"), [Question(CARD, "lower", "toxic")], manifests={}
        )
        claimed += any(verdict.stands for verdict in judge(grid))
    assert claimed <= 3
