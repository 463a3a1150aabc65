"""Paired arms against scipy's own tests, and against what a wrong count would say."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from eval.flow import flow
from eval.paired import compare_means, compare_medians, compare_rates
from eval.statistics import holm, paired, sign_flip
from steering.errors import InvalidRequest

NAN = math.nan


def one_each(values: list[float]) -> dict[int, list[float]]:
    return {at: [value] for at, value in enumerate(values)}


def test_holm_agrees_with_published_values() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_exactly_where_the_step_down_procedure_does() -> None:
    for ps in np.random.default_rng(0).uniform(0, 0.1, (200, 5)):
        order, rejected = np.argsort(ps), set()
        for rank, at in enumerate(order):
            if ps[at] > 0.05 / (5 - rank):
                break
            rejected.add(int(at))
        assert {at for at, p in enumerate(holm(ps.tolist())) if p <= 0.05} == rejected


def test_what_was_not_tested_does_not_count_among_the_tests() -> None:
    first, untested, second = holm([0.01, NAN, 0.02])
    assert (first, second) == (0.02, 0.02)
    assert math.isnan(untested)


def test_sign_flips_are_exact_for_few_differences() -> None:
    values = [0.3, -0.1, 0.4, 0.2, 0.25]
    total = abs(sum(values))
    extreme = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) >= total - 1e-12
        for signs in product((-1, 1), repeat=5)
    ]
    assert sign_flip(values) == pytest.approx(sum(extreme) / 32)
    assert sign_flip([*values, 0.0, NAN]) == sign_flip(values)


def test_sign_flips_agree_with_scipy_for_many() -> None:
    values = np.random.default_rng(1).normal(0.15, 1.0, 150)
    expected = stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=9999, rng=0
    ).pvalue
    assert sign_flip(values.tolist()) == pytest.approx(expected, abs=0.015)
    assert sign_flip(values.tolist()) == sign_flip(values.tolist())


def test_no_difference_at_all_is_no_evidence() -> None:
    assert sign_flip([0.0, 0.0]) == 1.0
    assert math.isnan(sign_flip([]))


def test_with_one_sample_a_rate_is_compared_as_by_mcnemar() -> None:
    rng = np.random.default_rng(2)
    arm, control = rng.uniform(size=80) * 0.8, rng.uniform(size=80)
    found = compare_rates(one_each(arm.tolist()), one_each(control.tolist()))
    old = paired((arm >= 0.5).tolist(), (control >= 0.5).tolist())
    assert found.change == old.change
    assert found.p == pytest.approx(old.p)
    worse = int(((arm >= 0.5) & (control < 0.5)).sum())
    better = int(((arm < 0.5) & (control >= 0.5)).sum())
    assert found.p == pytest.approx(stats.binomtest(worse, worse + better, 0.5).pvalue)
    assert (found.prompts, found.left_out) == (80, 0)


def test_the_interval_of_a_mean_agrees_with_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    control = rng.uniform(size=120)
    arm = control - 0.05 + rng.normal(0, 0.2, 120)
    found = compare_means(one_each(arm.tolist()), one_each(control.tolist()))
    expected = stats.bootstrap(
        (arm, control), lambda a, b, axis: (a - b).mean(axis=axis), paired=True, method="percentile", rng=0
    ).confidence_interval
    assert found.change.value == pytest.approx((arm - control).mean())
    assert found.change.low == pytest.approx(expected.low, abs=0.005)
    assert found.change.high == pytest.approx(expected.high, abs=0.005)


def test_the_interval_of_medians_agrees_with_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(4)
    control = rng.lognormal(3, 0.5, 150)
    arm = control * rng.lognormal(0.2, 0.2, 150)
    found = compare_medians(one_each(arm.tolist()), one_each(control.tolist()))
    expected = stats.bootstrap(
        (arm, control),
        lambda a, b, axis: np.median(a, axis=axis) - np.median(b, axis=axis),
        paired=True,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert found.change.value == pytest.approx(np.median(arm) - np.median(control))
    assert found.change.low == pytest.approx(expected.low, abs=0.5)
    assert found.change.high == pytest.approx(expected.high, abs=0.5)
    assert math.isnan(found.p)


def test_copies_of_a_prompts_samples_make_nothing_surer() -> None:
    rng = np.random.default_rng(5)
    arm, control = rng.uniform(size=(2, 40))
    single = compare_rates(one_each(arm.tolist()), one_each(control.tolist()))
    copies = compare_rates(
        {at: [value] * 25 for at, value in enumerate(arm)}, {at: [value] * 25 for at, value in enumerate(control)}
    )
    assert copies.change == pytest.approx(single.change)
    assert copies.p == pytest.approx(single.p)
    many = compare_medians({a: [v] * 9 for a, v in enumerate(arm)}, {a: [v] * 9 for a, v in enumerate(control)})
    assert many.change == pytest.approx(compare_medians(one_each(list(arm)), one_each(list(control))).change)


def test_a_pair_in_which_either_has_no_score_is_left_out_of_both() -> None:
    found = compare_means(
        {"a": [0.1, NAN], "b": [0.5, 0.5], "c": [NAN, NAN]}, {"a": [0.3, 0.9], "b": [NAN, 0.6], "c": [1, 1]}
    )
    assert found.change.value == pytest.approx((-0.2 - 0.1) / 2)
    assert (found.prompts, found.left_out) == (2, 4)


def test_arms_of_other_prompts_or_samples_are_not_paired() -> None:
    with pytest.raises(InvalidRequest, match="share 1 prompts of 2 and 1"):
        compare_means({"a": [0.1], "b": [0.2]}, {"a": [0.1]})
    with pytest.raises(InvalidRequest, match="different numbers of samples"):
        compare_means({"a": [0.1, 0.2]}, {"a": [0.1]})


def test_nothing_compared_has_no_figure() -> None:
    for compare in (compare_means, compare_medians, compare_rates):
        found = compare({"a": [NAN]}, {"a": [0.1]})
        assert all(math.isnan(value) for value in (*found.change, found.p))
        assert (found.prompts, found.left_out) == (0, 1)


def test_the_flow_table_counts_both_directions() -> None:
    found = flow([0, 0, 1, 1, 0, NAN], [1, 1, 1, 0, 0, 1])
    assert (found.bad_to_good, found.good_to_bad, found.stayed_bad, found.stayed_good) == (2, 1, 1, 1)
    assert (found.pairs, found.unchanged, found.left_out) == (5, 2, 1)
    assert found.relieved.value == pytest.approx(2 / 3)
    assert found.harmed.value == pytest.approx(1 / 2)
    expected = stats.binomtest(2, 3).proportion_ci(method="wilson")
    assert (found.relieved.low, found.relieved.high) == pytest.approx((expected.low, expected.high))


def test_chance_alone_relieves_bad_samples_and_the_flow_shows_it() -> None:
    rng = np.random.default_rng(6)
    before, again = (rng.uniform(size=2000) < 0.2 for _ in range(2))
    found = flow(again.astype(float).tolist(), before.astype(float).tolist())
    assert found.relieved.value > 0.7, "regression to the mean"
    assert abs(found.bad_to_good - found.good_to_bad) < 60, "and as many went the other way"


@pytest.mark.slow
def test_nineteen_in_twenty_intervals_hold_the_truth_where_samples_of_a_prompt_are_alike() -> None:
    rng = np.random.default_rng(7)
    held = naive = 0
    for _ in range(200):
        prompts = rng.normal(-0.1, 0.3, (64, 1))  # the true change is -0.1, and differs from prompt to prompt
        control = rng.normal(0.5, 0.1, (64, 10))
        arm = control + prompts + rng.normal(0, 0.1, (64, 10))
        found = compare_means(dict(enumerate(arm.tolist())), dict(enumerate(control.tolist()))).change
        held += found.low <= -0.1 <= found.high
        gaps = (arm - control).ravel()
        half = 1.96 * gaps.std() / math.sqrt(gaps.size)
        naive += abs(gaps.mean() + 0.1) <= half
    assert held / 200 > 0.9
    assert naive / 200 < 0.6, "counting samples as if they were prompts"
