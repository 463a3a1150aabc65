"""The report of a row, against a recount by hand from the residuals themselves, in numpy float64.

The unsteered side is what a hook before ours sees; the stored side is what the next block receives.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from steering import Bounds, Constraint, Plan, Request, Sampling, generate, steer
from steering.architectures import residual_blocks
from steering.errors import InvalidRequest, SteeringNotApplied
from steering.rows import RowSteering

PROMPT, NEW = (7, 30, 2, 99, 254, 11), 7
HIGH = 0.4
SAMPLING = Sampling(max_tokens=NEW, temperature=0, ignore_eos=True)


def watched(lm, received, plan, *, neighbours=0, **request):
    """The first row's completion, and its residuals per layer (tokens, hidden_size) before and after our hooks."""
    before = {layer: [] for layer in range(4)}
    handles = [
        block.register_forward_hook(lambda module, args, output, layer=layer: before[layer].append(output[0]))
        for layer, block in enumerate(residual_blocks(lm.model))
    ]
    rows = [Request(PROMPT, SAMPLING, plan, **request)] + [Request("a longer prompt beside it", SAMPLING)] * neighbours
    try:
        with received(lm.model) as after:
            done = generate(lm, rows)[0]
    finally:
        for handle in handles:
            handle.remove()

    def first_row(passes):
        """(tokens, hidden_size) without the padding of the prompt."""
        return torch.cat([passes[0][-len(PROMPT) :], *passes[1:]]).double().numpy()

    pre = {layer: first_row(passes) for layer, passes in before.items()}
    post = {layer: first_row([passed[0] for passed in passes]) for layer, passes in after.items()}
    return done, pre, post


def by_hand(constraint, pre, post, *, low=-math.inf, high=HIGH):
    """The figures of a report, one loop over tokens and layers. Token i has offset i - len(PROMPT)."""
    start, stop = constraint.generation[0], 99 if constraint.generation[1] is None else constraint.generation[1]
    covered = [
        at
        for at in range(len(PROMPT) + NEW - 1)
        if ({"none": 0, "last": -1, "all": -99}[constraint.prompt] <= at - len(PROMPT) < 0)
        or (start <= at - len(PROMPT) < stop)
    ]
    found = {"tokens": len(covered), "edited": 0, "violations": 0, "pre": [], "post": [], "doses": []}
    for at in covered:
        edited = outside = False
        for layer in constraint.at_layers:
            fitted = constraint.probe.at(layer)
            scale, shift = fitted.calibration
            logits = [float(side[layer][at] @ fitted.weight.double().numpy()) + fitted.bias for side in (pre, post)]
            for name, logit in zip(("pre", "post"), logits, strict=True):
                found[name].append(1 / (1 + math.exp(-(scale * logit + shift))))
            outside |= not low <= logits[1] <= high
            if not np.array_equal(pre[layer][at], post[layer][at]):
                edited = True
                found["doses"].append(np.linalg.norm(post[layer][at] - pre[layer][at]) / np.linalg.norm(pre[layer][at]))
        found["edited"] += edited
        found["violations"] += outside
    return found


def agree(report, found, *, capped=False):
    assert (report.tokens, report.edited) == (found["tokens"], found["edited"])
    assert (report.capped, report.violations) == ((found["violations"], 0) if capped else (0, found["violations"]))
    for value, recount in (
        (report.max_pre, max(found["pre"])),
        (report.max_post, max(found["post"])),
        (report.min_pre, min(found["pre"])),
        (report.min_post, min(found["post"])),
        (report.mean_dose, np.mean(found["doses"]) if found["doses"] else 0.0),
        (report.max_dose, max(found["doses"], default=0.0)),
    ):
        assert value == pytest.approx(recount, rel=1e-4, abs=1e-6)


POLICIES = [
    {"prompt": "all"},
    {"prompt": "last", "layers": (1,)},
    {"prompt": "none", "generation": (2, 5), "layers": (0, 3)},
    {"prompt": "last", "generation": (0, 0)},
    {"prompt": "all", "strength": 0.5},
    {"prompt": "all", "controller": "random", "seed": 4},
]


@pytest.mark.parametrize("neighbours", [0, 2])
@pytest.mark.parametrize("changes", POLICIES, ids=str)
def test_the_report_is_a_recount_by_hand(lm, probe, received, changes, neighbours):
    constraint = Constraint(probe, Bounds(upper=HIGH, space="logit"), **changes)
    done, pre, post = watched(lm, received, Plan((constraint,)), neighbours=neighbours)
    found = by_hand(constraint, pre, post)
    agree(done.steering.probes[probe.id], found)
    assert found["edited"] > 0
    assert (found["violations"] == 0) or not constraint.promised
    assert done.steering.layers == list(constraint.at_layers)
    assert done.steering.applied


def test_what_the_budget_stops_is_capped_and_not_violated(lm, probe, received):
    constraint = Constraint(probe, Bounds(upper=-2.0, space="logit"), prompt="all", max_dose=0.05)
    done, pre, post = watched(lm, received, Plan((constraint,)))
    found = by_hand(constraint, pre, post, high=-2.0)
    agree(done.steering.probes[probe.id], found, capped=True)
    assert found["violations"] > 0
    assert max(found["doses"]) <= 0.05 * (1 + 1e-5)


def test_monitor_edits_nothing_and_counts_what_is_outside(lm, probe, received):
    constraint = Constraint(probe, Bounds(upper=HIGH, space="logit"), prompt="all")
    done, pre, post = watched(lm, received, Plan((constraint,), mode="monitor"))
    assert all(np.array_equal(pre[layer], post[layer]) for layer in range(4))
    found = by_hand(constraint, pre, post)
    report = done.steering.probes[probe.id]
    agree(report, found)
    assert found["violations"] > 0
    assert not report.promised
    assert not done.steering.applied
    assert done.token_ids == generate(lm, [Request(PROMPT, SAMPLING)])[0].token_ids


def test_two_probes_at_different_layers_are_reported_apart(lm, make_probe, received):
    one, other = make_probe(lm, name="one"), make_probe(lm, name="other", seed=5)
    constraints = (
        Constraint(one, Bounds(upper=HIGH, space="logit"), layers=(0, 2), prompt="all"),
        Constraint(other, Bounds(upper=HIGH, space="logit"), layers=(3,), generation=(1, 4)),
    )
    done, pre, post = watched(lm, received, Plan(constraints))
    for constraint in constraints:
        agree(done.steering.probes[constraint.probe.id], by_hand(constraint, pre, post))


@pytest.mark.parametrize(("side", "nearest"), [("upper", np.max), ("lower", np.min)])
def test_token_scores_are_of_the_layer_the_bound_is_about_at_each_token_read(lm, probe, received, side, nearest):
    bounds = Bounds(**{side: HIGH if side == "upper" else -HIGH}, space="logit")
    constraint = Constraint(probe, bounds, prompt="last", layers=(1, 3))
    done, pre, post = watched(lm, received, Plan((constraint,)), neighbours=1, token_scores=True)
    scores = done.steering.tokens
    assert [score["offset"] for score in scores] == list(range(-1, NEW - 1))
    found = by_hand(constraint, pre, post)
    for at, name in enumerate(("pre", "post")):
        expected = nearest(np.array(found[name]).reshape(-1, 2), axis=1)
        assert [score["probes"][probe.id][at] for score in scores] == pytest.approx(expected, rel=1e-4)


def test_the_doses_of_tokens_have_the_largest_of_the_report_and_its_violations_are_named(lm, probe):
    constraint = Constraint(probe, Bounds(upper=HIGH, space="logit"), prompt="all", layers=(1, 3))
    for mode in ("enforce", "monitor"):
        (done,) = generate(lm, [Request(PROMPT, SAMPLING, Plan((constraint,), mode=mode), token_scores=True)])
        report, scores = done.steering.probes[probe.id], done.steering.tokens
        assert max(score["doses"][probe.id] for score in scores) == pytest.approx(report.max_dose)
        assert sum(score["violated"] == [probe.id] for score in scores) == report.violations
        assert (report.violations > 0) == (mode == "monitor")


def test_a_policy_that_met_no_token_reports_none_rather_than_a_number(lm, probe):
    constraint = Constraint(probe, Bounds(upper=HIGH, space="logit"), prompt="none", generation=(50, None))
    (plain,) = generate(lm, [Request(PROMPT, SAMPLING)])
    early = replace(SAMPLING, max_tokens=90, stop=(plain.text[0],))  # the text ends before the window begins
    (done,) = generate(lm, [Request(PROMPT, early, Plan((constraint,)))])
    document = done.steering.to_json()["probes"][probe.id]
    assert (document["tokens"], document["edited"], document["violations"]) == (0, 0, 0)
    assert document["max_pre"] is document["max_post"] is document["min_pre"] is None
    assert "tokens" not in done.steering.to_json()


@pytest.mark.parametrize(("side", "bound"), [("upper", 0.001), ("upper", 0.3), ("lower", 0.9999), ("lower", 0.7)])
def test_a_reported_probability_is_never_outside_a_bound_that_was_kept(lm, make_probe, side, bound):
    probe = make_probe(lm, seed=3)
    plan = Plan((Constraint(probe, Bounds(**{side: bound}), prompt="all"),))
    for seed in range(5):
        (done,) = generate(lm, [Request("the report", Sampling(max_tokens=8, seed=seed, ignore_eos=True), plan)])
        report = done.steering.probes[probe.id]
        assert report.violations == 0
        assert report.max_post <= bound if side == "upper" else report.min_post >= bound


@pytest.mark.parametrize(("generation", "max_tokens"), [((10, 20), 3), ((0, None), 1), ((2, None), 3)])
def test_a_plan_that_could_touch_no_token_is_refused_not_reported_as_applied(probe, generation, max_tokens):
    plan = Plan((Constraint(probe, Bounds(upper=0.1), prompt="none", generation=generation),))
    with pytest.raises(InvalidRequest, match="would steer no token") as refused:
        Request("abc", Sampling(max_tokens=max_tokens), plan)
    assert refused.value.param == "generation"


def test_a_pass_that_ran_without_its_controllers_is_an_error_and_not_an_empty_report(lm, probe):
    plan = Plan((Constraint(probe, Bounds(upper=0.1)),))
    steering = RowSteering([plan], hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype)
    ids = torch.tensor([[5, 6, 7]])
    steering.begin(torch.tensor([[-3, -2, -1]]))
    with torch.no_grad():
        lm.model(ids)
    with pytest.raises(SteeringNotApplied, match=r"layers \[0, 1, 2, 3\].*unsteered"):
        steering.collect()
    some = {layer: rule for layer, rule in steering.controllers().items() if layer != 2}
    with steer(lm.model, some), torch.no_grad():
        lm.model(ids)
    with pytest.raises(SteeringNotApplied, match=r"layers \[2\]"):
        steering.collect()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_stream_of_another_shape_than_was_announced_is_an_error_in_either_form(lm, probe, dtype):
    plan = Plan((Constraint(probe, Bounds(upper=0.1)),))
    steering = RowSteering([plan], hidden_size=lm.info.hidden_size, device=lm.device, dtype=dtype)
    rule = steering.controllers()[0]
    steering.begin(torch.tensor([[0]]))
    for shape in ((2, 1, 32), (1, 5, 32), (1, 1, 64)):
        with pytest.raises(SteeringNotApplied, match="announced"):
            rule(torch.zeros(shape, dtype=dtype))
    assert rule(torch.zeros(1, 1, 32, dtype=dtype)).shape == (1, 1, 32)
