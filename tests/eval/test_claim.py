"""The rule for a claim: it stands when everything holds, and each missing part is named."""

from __future__ import annotations

import gzip
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.claim import Evidence, judge
from eval.degenerate import TextFigures, degenerate
from eval.metrics import compression_ratio, mean_length, mean_score, repetition
from eval.statistics import Estimate, Paired
from steering.scorers import Relation

RATED = Path(__file__).parents[3] / "shared/data/fluency/steered_generations_rated.jsonl.gz"
STRANGERS = Relation(False, ())
LOWER = Paired(Estimate(-0.2, -0.3, -0.1), 0.001, prompts=64)
UNCLEAR = Paired(Estimate(-0.05, -0.15, 0.05), 0.4, prompts=64)
GOOD = Evidence("slab", "judge", "toxic", "rate", "lower", LOWER, LOWER, (), STRANGERS)


def failed(evidence: Evidence) -> tuple[str, ...]:
    (verdict,) = judge([evidence])
    return verdict.failed


def test_a_claim_stands_when_everything_holds_and_says_both_comparisons() -> None:
    (verdict,) = judge([GOOD])
    assert verdict.stands
    assert (
        verdict.words
        == verdict.claim
        == (
            "slab makes the text less toxic by judge: -20 points [-30, -10] against unsteered (Holm p 0.001 over "
            "1 comparison), -20 points [-30, -10] against its placebo; 64 prompts"
        )
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"against_unsteered": replace(LOWER, change=Estimate(-0.2, -0.4, 0.0))},
            "not clear of zero on the lower side",
        ),
        ({"against_unsteered": replace(LOWER, p=0.06)}, r"p is 0\.060 after Holm's correction over 1"),
        ({"against_placebo": None}, "no same-norm placebo"),
        ({"against_placebo": UNCLEAR}, r"does not beat its placebo \(-5 points \[-15, \+5\], p 0\.400\)"),
        ({"against_placebo": replace(LOWER, p=0.2)}, r"does not beat its placebo .*p 0\.200"),
        ({"degenerate": ("perplexity 10.0 -> 40.0",)}, r"degenerate \(perplexity 10\.0 -> 40\.0\)"),
        ({"relation": Relation(True, ("judge labelled it",))}, r"no witness \(judge labelled it\)"),
    ],
)
def test_each_condition_alone_forbids_the_claim_and_is_named(change: dict[str, object], reason: str) -> None:
    evidence = replace(GOOD, **change)  # type: ignore[arg-type]
    (found,) = failed(evidence)
    (verdict,) = judge([evidence])
    assert verdict.claim is None
    assert re.search(reason, found)
    assert found in verdict.words


def test_everything_that_failed_is_said_and_not_only_the_first() -> None:
    worse = replace(GOOD, against_unsteered=UNCLEAR, against_placebo=UNCLEAR, degenerate=("length 20.0 -> 3.0",))
    assert len(failed(worse)) == 4


def test_the_wrong_direction_is_no_success() -> None:
    raised = Paired(Estimate(0.2, 0.1, 0.3), 0.001, prompts=64)
    assert "lower side" in failed(replace(GOOD, against_unsteered=raised))[0]
    (verdict,) = judge([replace(GOOD, aim="higher", against_unsteered=raised, against_placebo=raised)])
    assert verdict.claim is not None
    assert "more toxic" in verdict.claim


def test_what_else_was_looked_at_makes_a_claim_harder() -> None:
    found = replace(GOOD, against_unsteered=replace(LOWER, p=0.02))
    assert judge([found])[0].stands
    first, *_ = judge([found, *[replace(GOOD, against_unsteered=UNCLEAR)] * 4])
    assert first.tests == 5
    assert first.p_holm == pytest.approx(0.1)
    assert first.failed == ("p is 0.100 after Holm's correction over 5",)


def test_weak_ties_missing_scores_and_violations_are_said_beside_the_claim() -> None:
    ties = Relation(False, ("both were trained on the same comments",))
    evidence = replace(GOOD, relation=ties, against_unsteered=replace(LOWER, left_out=3), violations=2)
    (verdict,) = judge([evidence])
    assert verdict.stands
    assert len(verdict.caveats) == 3
    assert verdict.caveats[0] == ties.reasons[0]
    assert "3 pairs" in verdict.caveats[1]
    assert "violated at 2 tokens" in verdict.caveats[2]


def test_without_scores_there_is_nothing_to_claim() -> None:
    nothing = Paired(Estimate(math.nan, math.nan, math.nan), math.nan)
    assert failed(replace(GOOD, against_unsteered=nothing)) == ("no prompt has a score in both arms",)
    assert judge([]) == []


USUAL = TextFigures(perplexity=20.0, repetition=0.02, compression=2.4, length=18.0, unscored=0.0)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"perplexity": 9.9}, "perplexity 20.0 -> 9.9"),
        ({"perplexity": 40.1}, "perplexity 20.0 -> 40.1"),
        ({"perplexity": math.nan}, "perplexity 20.0 -> nan"),
        ({"repetition": 0.13}, "repetition 0.02 -> 0.13"),
        ({"compression": 3.7}, "compression 2.4 -> 3.7"),
        ({"length": 8.9}, "length 18.0 -> 8.9"),
        ({"length": 36.5}, "length 18.0 -> 36.5"),
        ({"unscored": 0.2}, "unscored 0.00 -> 0.20"),
    ],
)
def test_text_that_leaves_the_band_on_either_side_is_degenerate(changed: dict[str, float], what: str) -> None:
    assert degenerate(replace(USUAL, **changed), USUAL) == (what,)


def test_the_unsteered_arm_and_its_neighbours_are_not_degenerate() -> None:
    assert degenerate(USUAL, USUAL) == ()
    assert degenerate(TextFigures(39.0, 0.11, 3.5, 10.0, 0.09), USUAL) == ()
    assert degenerate(TextFigures(20.0, math.nan, 1.0, 18.0, 0.0), USUAL) == (), "too short to repeat anything"
    assert degenerate(TextFigures(20.0, 0.0), TextFigures(20.0, 0.0)) == (), "what was not measured is not judged"


@pytest.mark.skipif(not RATED.is_file(), reason="the data sets are not beside this checkout (../shared/data)")
def test_the_band_agrees_with_a_human_rater_on_the_arms_of_the_liseco_paper() -> None:
    with gzip.open(RATED, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    arms: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault((row["model"], row["method"], str(row["setting"])), []).append(row)
    usual = {model: _words(samples) for (model, method, _), samples in arms.items() if method == "baseline"}
    flagged, whole = [], []
    for (model, _, _), samples in arms.items():
        ratings = [row["naturalness"] for row in samples if row["naturalness"] is not None]
        if ratings:
            left = degenerate(_words(samples), usual[model])
            (flagged if left else whole).append(sum(ratings) / len(ratings))
    assert (len(flagged), len(whole)) == (15, 24)
    assert max(flagged) < 3.8
    assert min(whole) > 4.0


def _words(samples: list[dict[str, Any]]) -> TextFigures:
    """By words, since the token ids are not published; perplexity is not measured, so it is left equal."""
    texts = [row["text"][len(row["prompt"]) :] for row in samples]
    words = [text.split() for text in texts]
    repeated = mean_score([repetition(row) for row in words])
    return TextFigures(1.0, repeated, compression_ratio(texts), mean_length(words))
