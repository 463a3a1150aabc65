"""At equal fluency: a path is followed as far as the budget goes, and methods are compared there, prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from eval.equal_fluency import Setting, reliefs, walk
from steering.errors import InvalidRequest


def arm(name: str, scores: Sequence[float], perplexity: float | Sequence[float]) -> Setting:
    values = np.asarray(scores, dtype=np.float64)[:, None]
    return Setting(name, values, np.broadcast_to(np.asarray(perplexity, dtype=np.float64), (len(scores),))[:, None])


def test_a_path_ends_where_it_first_costs_the_budget_by_hand() -> None:
    stop = walk([10.0, 10.0 * 1.05**2], [0.4, 0.2], budget=1.05)  # half way, in the logarithm
    assert stop.score == pytest.approx(0.3)
    assert stop.place == pytest.approx(0.5)
    assert stop.perplexity == pytest.approx(10.5)
    assert stop.spent


def test_what_comes_after_the_budget_is_spent_is_not_looked_at() -> None:
    cheap_again = walk([10.0, 12.0, 9.0], [0.4, 0.3, 0.0])
    assert cheap_again.score == walk([10.0, 12.0], [0.4, 0.3]).score
    assert cheap_again.place < 1


def test_a_path_that_never_costs_the_budget_ends_at_its_strongest_setting_and_says_so() -> None:
    stop = walk([10.0, 9.0, 10.4], [0.4, 0.3, 0.1])
    assert (stop.score, stop.place, stop.spent) == (0.1, 2.0, False)
    assert stop.perplexity == pytest.approx(10.4)


def test_a_setting_that_is_not_the_best_on_the_way_is_not_preferred_to_the_last() -> None:
    assert walk([10.0, 10.1, 10.2], [0.4, 0.1, 0.3]).score == pytest.approx(0.3)


@pytest.mark.parametrize("budget", [1.0, 0.5, math.nan])
def test_a_budget_that_allows_nothing_is_refused(budget: float) -> None:
    with pytest.raises(InvalidRequest, match="expected a factor above 1"):
        walk([10.0, 11.0], [0.4, 0.3], budget=budget)


def test_relief_is_counted_toward_what_is_wanted() -> None:
    none, steered = arm("none", [0.4] * 8, 10.0), arm("steered", [0.1] * 8, 10.0)
    ((lower,), _), ((higher,), _) = (
        reliefs(none, {"method": [steered]}, aim="lower"),
        reliefs(none, {"method": [steered]}, aim="higher"),
    )
    assert lower.relief.value == pytest.approx(0.3)
    assert lower.share.value == pytest.approx(0.75)
    assert higher.relief.value == pytest.approx(-0.3)


def test_a_share_of_a_score_that_may_be_nothing_is_not_told() -> None:
    none, steered = arm("none", [0.0] * 7 + [0.4], 10.0), arm("steered", [0.9] * 8, 10.0)
    ((found,), _) = reliefs(none, {"method": [steered]}, aim="higher")  # some resamples have seven zeros and no more
    assert math.isnan(found.share.value)
    assert found.relief.value == pytest.approx(0.85)


def test_twice_as_much_with_intervals_apart_is_found_where_it_was_planted_and_not_elsewhere() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.3, 0.7, 200)
    none = arm("none", base, 10.0)
    methods = {
        "paper": [arm("paper", base - 0.1 + rng.normal(0, 0.02, 200), 10.2)],
        "better": [arm("better", base - 0.25 + rng.normal(0, 0.02, 200), 10.4)],
        "dear": [arm("dear", base - 0.25, 10.0 * 1.05**5)],  # a fifth of the way is all it may go
    }
    found, contests = reliefs(none, methods, aim="lower", contests=[("better", "paper"), ("dear", "paper")])
    assert [one.method for one in found] == list(methods)
    better, dear = contests
    assert (better.method, better.against) == ("better", "paper")
    assert better.at_least(2)
    assert better.difference.low > 0
    assert dear.difference.high < 0
    assert not dear.at_least(1)
    assert found[2].relief.value == pytest.approx(0.05)


def test_intervals_are_paired_so_that_what_prompts_share_does_not_widen_them() -> None:
    rng = np.random.default_rng(1)
    hard = rng.uniform(0, 1, 100)
    none = arm("none", hard, 10.0)
    _, (contest,) = reliefs(
        none,
        {"one": [arm("one", hard * 0.5, 10.0)], "other": [arm("other", hard * 0.5 - 0.1, 10.0)]},
        aim="lower",
        contests=[("other", "one")],
    )
    assert contest.difference.value == pytest.approx(0.1)
    assert contest.difference.high - contest.difference.low < 1e-9


def test_a_relief_that_is_nothing_has_no_ratio_and_twice_it_is_anything_beyond_it() -> None:
    none = arm("none", [0.4] * 20, 10.0)
    methods = {"idle": [arm("idle", [0.4] * 20, 10.0)], "works": [arm("works", [0.3] * 20, 10.0)]}
    _, (contest,) = reliefs(none, methods, aim="lower", contests=[("works", "idle")])
    assert math.isnan(contest.ratio)
    assert contest.at_least(2)


def test_prompts_without_a_score_are_left_out_and_samples_of_a_prompt_count_as_one() -> None:
    none = Setting("none", np.array([[0.4, 0.6], [0.1, math.nan], [math.nan, math.nan]]), np.full((3, 2), 10.0))
    zero = Setting("zero", np.zeros((3, 2)), np.full((3, 2), 10.0))
    ((found,), _) = reliefs(none, {"zero": [zero]}, aim="lower")
    assert found.relief.value == pytest.approx((0.5 + 0.1) / 2)


def test_arms_of_other_prompts_are_refused_and_so_is_a_rival_that_is_not_there() -> None:
    none = arm("none", [0.4] * 3, 10.0)
    with pytest.raises(InvalidRequest, match="'short' has other prompts"):
        reliefs(none, {"method": [arm("short", [0.4] * 2, 10.0)]}, aim="lower")
    with pytest.raises(InvalidRequest, match="no method 'paper'; there are: method"):
        reliefs(none, {"method": [none]}, aim="lower", contests=[("method", "paper")])
