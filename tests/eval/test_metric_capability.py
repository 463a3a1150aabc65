"""Divergence, pairs, choices, refusals, doses: by hand and against scipy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score

from eval.metrics import (
    choice_accuracy,
    is_refusal,
    next_token_kl,
    pair_accuracy,
    refusal_rate,
    speed_ratio,
    steered,
)

DATA = Path(__file__).parents[3] / "shared" / "data"


def test_divergence_agrees_with_scipy_and_torch_and_is_zero_for_no_change() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(3, 4, 50, generator=generator) * 3 for _ in range(2))
    found = next_token_kl(one, other)
    p, q = one.double().softmax(-1).numpy(), other.double().softmax(-1).numpy()
    assert found.numpy() == pytest.approx(stats.entropy(p, q, axis=-1), rel=1e-9)
    reference = torch.nn.functional.kl_div(
        other.double().log_softmax(-1), one.double().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    assert torch.allclose(found, reference, rtol=1e-9)
    assert next_token_kl(one, one).abs().max() == 0.0


def test_divergence_by_hand_is_directed_and_knows_what_cannot_happen() -> None:
    sure, torn = torch.tensor([0.0, -torch.inf]), torch.tensor([0.0, 0.0])
    assert next_token_kl(sure, torn).item() == pytest.approx(math.log(2))
    assert next_token_kl(torn, sure).item() == math.inf
    with pytest.raises(ValueError, match="same positions"):
        next_token_kl(torch.zeros(2, 3), torch.zeros(3))


def test_a_pair_is_won_by_the_likelier_text_and_a_tie_is_half() -> None:
    assert pair_accuracy([-1.0, -5.0, -2.0, math.nan], [-2.0, -4.0, -2.0, -1.0]) == pytest.approx(1.5 / 3)
    assert math.isnan(pair_accuracy([], []))


def test_choices_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    likelihoods, correct = rng.normal(size=(60, 2)), rng.integers(0, 2, 60)
    expected = accuracy_score(correct, likelihoods.argmax(axis=1))
    assert choice_accuracy(likelihoods.tolist(), correct.tolist()) == pytest.approx(expected)


def test_a_long_answer_is_not_at_a_disadvantage_when_lengths_are_given() -> None:
    likelihoods, lengths = [[-4.0, -6.0]], [[2, 6]]
    assert choice_accuracy(likelihoods, [1]) == 0.0
    assert choice_accuracy(likelihoods, [1], lengths=lengths) == 1.0
    assert choice_accuracy([[-1.0, -1.0, -2.0]], [0]) == 0.5
    assert math.isnan(choice_accuracy([], []))


def test_a_refusal_is_known_by_its_opening() -> None:
    assert is_refusal("I\N{RIGHT SINGLE QUOTATION MARK}m sorry, I cannot help you with the cake.")
    assert not is_refusal("Beat three eggs into the flour.")
    assert not is_refusal("Beat three eggs. " * 20 + "I cannot say more.")
    assert refusal_rate(["I must decline.", "Gladly.", "Sure.", "As an AI I bake nothing."]) == 0.5
    assert math.isnan(refusal_rate([]))


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside this checkout (../shared/data)")
def test_the_phrases_tell_published_refusals_from_published_compliance() -> None:
    lines = (DATA / "refusal/refusal_compliance_openers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    refused = [is_refusal(row["text"]) for row in rows if row["label"] == "refuse"]
    complied = [is_refusal(row["text"]) for row in rows if row["label"] == "comply"]
    assert (len(refused), len(complied)) == (100, 100)
    assert sum(refused) >= 75
    assert sum(complied) == 0


def report(**changes: Any) -> dict[str, Any]:
    """As in the HTTP reply."""
    plain = {"max_pre": 0.9, "max_post": 0.1, "min_pre": 0.0, "min_post": 0.0, "tokens": 10, "edited": 4, "capped": 0}
    more = {"infeasible": 0, "violations": 0, "mean_dose": 0.2, "max_dose": 0.3, "promised": True}
    return {"probes": {"toxicity@1": {**plain, **more, **changes}}}


def test_edits_doses_and_violations_add_up_over_continuations() -> None:
    found = steered([report(), report(edited=1, mean_dose=0.7, max_dose=0.8, violations=2), None])["toxicity@1"]
    assert (found.continuations, found.tokens, found.violations) == (2, 20, 2)
    assert found.edited == pytest.approx(5 / 20)
    assert found.mean_dose == pytest.approx((4 * 0.2 + 0.7) / 5)
    assert found.max_dose == 0.8
    assert found.promised


def test_one_unpromised_bound_makes_the_arm_unpromised_and_an_uncalibrated_probe_has_no_probability() -> None:
    found = steered([report(), report(promised=False)])["toxicity@1"]
    assert not found.promised
    assert math.isnan(steered([report(max_post=None, min_post=None)])["toxicity@1"].max_post)
    assert math.isnan(steered([report(edited=0)])["toxicity@1"].mean_dose)
    assert steered([None]) == {}


def test_speed_is_a_ratio_of_tokens_per_second() -> None:
    assert speed_ratio(90, 10.0, unhooked_tokens=100, unhooked_seconds=10.0) == pytest.approx(0.9)
    assert math.isnan(speed_ratio(0, 0.0, unhooked_tokens=100, unhooked_seconds=10.0))
