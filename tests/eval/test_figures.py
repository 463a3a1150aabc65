"""First figures, against hand-computed examples and numpy."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eval.figures import report

IDENTITY: dict[str, Any] = {
    "spec": "made up",
    "model": {"id": "m"},
    "decoding": {},
    "samples": 2,
    "prompts": {"p": 2},
    "thresholds": {"heat": 0.5},
    "arms": [{"name": "none", "placebo_of": None}, {"name": "slab", "placebo_of": None}],
}


def row(arm: str, prompt: str, score: float, **more: Any) -> dict[str, Any]:
    probe = {"tokens": 4, "edited": 2, "mean_dose": 0.1, "violations": 1, "capped": 0, "promised": True}
    steering = None if arm == "none" else json.dumps({"probes": {"t@1": probe}})
    plain = {
        "arm": arm,
        "prompt_set": "p",
        "prompt_id": prompt,
        "finish_reason": "length",
        "seconds": 0.5,
        "stratum": None,
    }
    measured = {
        "token_ids": [1, 2, 3, 4, 5],
        "logprob_sum": -5 * math.log(7.0),
        "logprob_tokens": 5,
        "steering": steering,
    }
    return plain | measured | {"score.heat": score} | more


ROWS = [
    row("none", "a", 0.9), row("none", "a", 0.1), row("none", "b", 0.3), row("none", "b", math.nan),
    row("slab", "a", 0.2), row("slab", "a", 0.5), row("slab", "b", 0.1), row("slab", "b", 0.3, finish_reason="stop"),
]  # fmt: skip


def made(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {arm["arm"]: arm for arm in report(pa.Table.from_pylist(rows), IDENTITY)["arms"]}


def test_scores_are_averaged_by_prompt_and_compared_prompt_by_prompt() -> None:
    none, slab = (made(ROWS)[name]["scores"]["heat"] for name in ("none", "slab"))
    assert none["mean"]["value"] == pytest.approx((0.5 + 0.3) / 2)
    assert slab["mean"]["value"] == pytest.approx((0.35 + 0.2) / 2)
    assert slab["change"]["value"] == pytest.approx((0.35 - 0.5 + 0.2 - 0.3) / 2)
    assert (none["unscored"], slab["unscored"]) == (1, 0)


def test_rates_and_maxima_over_samples_are_those_of_the_definitions() -> None:
    none, slab = (made(ROWS)[name]["scores"]["heat"] for name in ("none", "slab"))
    assert none["rate"]["value"] == pytest.approx(1 / 3)
    assert slab["rate"]["value"] == pytest.approx(1 / 4)  # 0.5 is at least the threshold
    assert none["expected_maximum"]["value"] == pytest.approx((0.9 + 0.3) / 2)
    assert slab["any"]["value"] == pytest.approx(1 / 2)


def test_one_sample_of_each_prompt_has_no_maximum() -> None:
    assert "any" not in made([ROWS[0], ROWS[2], ROWS[4], ROWS[6]])["slab"]["scores"]["heat"]


def test_a_single_prompt_has_no_interval() -> None:
    change = made(ROWS[:2] + ROWS[4:6])["slab"]["scores"]["heat"]["change"]
    assert change == {"value": pytest.approx(0.35 - 0.5), "low": None, "high": None}


def test_strata_stand_apart() -> None:
    rows = [entry | {"stratum": "hot" if entry["prompt_id"] == "a" else "cold"} for entry in ROWS]
    strata = made(rows)["slab"]["strata"]
    assert strata["hot"]["heat"]["mean"]["value"] == pytest.approx(0.35)
    assert strata["cold"]["heat"]["change"]["value"] == pytest.approx(0.2 - 0.3)
    assert made(ROWS)["slab"]["strata"] == {}


def test_fluency_steering_and_cost() -> None:
    arms = made(ROWS)
    assert arms["none"]["perplexity"]["value"] == pytest.approx(7.0)
    assert arms["none"]["steering"] is None
    steering = arms["slab"]["steering"]
    assert (steering["edited"], steering["violations"], steering["promised"]) == (0.5, 4, True)
    assert steering["mean_dose"] == pytest.approx(np.mean([0.1]))
    assert arms["slab"]["stopped"] == 0.25
    assert arms["slab"]["tokens_per_second"] == pytest.approx(20 / 2.0)
    assert arms["slab"]["new_tokens"] == 5


def test_what_cannot_be_said_is_null_and_the_report_is_plain_json() -> None:
    bare = [entry | {"logprob_sum": None, "logprob_tokens": None, "score.heat": math.nan} for entry in ROWS]
    found = report(pa.Table.from_pylist(bare), IDENTITY)
    json.dumps(found, allow_nan=False)
    assert found["arms"][0]["perplexity"]["value"] is None
    assert found["arms"][0]["scores"]["heat"]["mean"] == {"value": None, "low": None, "high": None}
