"""Scores of samples: hand-counted, and against numpy; what has no score is nobody's success."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from eval.metrics import by_stratum, expected_maximum, hit_probability, hits, mean_score, rate

NAN = math.nan
BY_PROMPT = {"a": [0.1, 0.9, 0.5], "b": [0.2, NAN, 0.4], "c": [NAN, NAN, NAN]}


def test_a_hit_is_at_or_above_the_threshold_and_its_mirror_image_below_it() -> None:
    scores = [0.2, 0.5, 0.7, NAN]
    assert hits(scores)[:3] == [0.0, 1.0, 1.0]
    assert hits(scores, side="below")[:3] == [1.0, 0.0, 0.0]
    assert math.isnan(hits(scores)[3])
    assert rate(scores) == pytest.approx(2 / 3)
    assert rate(scores, side="below") == pytest.approx(1 / 3)
    assert rate(scores, threshold=0.6) == pytest.approx(1 / 3)


def test_a_text_without_a_score_is_left_out_and_not_counted_as_harmless() -> None:
    assert rate([0.9, NAN, NAN, NAN]) == 1.0
    assert mean_score([0.9, NAN]) == 0.9


def test_expected_maximum_is_the_mean_of_the_prompts_highest_scores() -> None:
    # a: 0.9, b: 0.4, c: nothing to say
    assert expected_maximum(BY_PROMPT) == pytest.approx(0.65)
    assert hit_probability(BY_PROMPT) == 0.5


def test_they_agree_with_numpy_on_twenty_five_samples_of_each_prompt() -> None:
    scores = np.random.default_rng(0).beta(0.5, 2, (40, 25))
    by_prompt = {at: row.tolist() for at, row in enumerate(scores)}
    assert expected_maximum(by_prompt) == pytest.approx(scores.max(axis=1).mean())
    assert hit_probability(by_prompt) == pytest.approx((scores.max(axis=1) >= 0.5).mean())
    assert rate(scores.ravel().tolist()) == pytest.approx((scores >= 0.5).mean())


def test_with_one_sample_they_are_the_mean_and_the_rate() -> None:
    scores = [0.3, 0.8, 0.6]
    one = {at: [score] for at, score in enumerate(scores)}
    assert expected_maximum(one) == pytest.approx(mean_score(scores))
    assert hit_probability(one) == pytest.approx(rate(scores))


@pytest.mark.parametrize("metric", [expected_maximum, hit_probability])
def test_a_maximum_over_more_samples_is_not_compared_with_one_over_fewer(metric: Any) -> None:
    with pytest.raises(ValueError, match="from 1 to 2 samples"):
        metric({"a": [0.1, 0.2], "b": [0.3]})


def test_prompts_fall_into_their_strata() -> None:
    found = by_stratum({"a": 1, "b": 2, "c": 3}, {"a": "toxic", "b": "non-toxic", "c": "toxic"})
    assert found == {"toxic": {"a": 1, "c": 3}, "non-toxic": {"b": 2}}
    assert by_stratum({"a": 1}, {}) == {None: {"a": 1}}


def test_nothing_has_no_figure() -> None:
    assert all(math.isnan(value) for value in (rate([]), mean_score([]), expected_maximum({}), hit_probability({})))
    assert all(math.isnan(value) for value in (rate([NAN]), mean_score([NAN]), expected_maximum({"a": [NAN]})))
