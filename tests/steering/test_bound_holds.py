"""The promise: the value stored at every steered layer and token reads inside the bound, in every dtype.

The stored value is what the next block receives, and it is read again here in numpy float64.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from steering import Bounds, Constraint, Plan, Request, Sampling, generate, wrap

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PROMPTS = ((7, 30, 2, 99, 254, 11, 30, 64, 5, 200), (9, 1, 250))
NEW = 6
BOUNDS = (Bounds(upper=0.1, space="logit"), Bounds(lower=-0.6, upper=0.0, space="logit"))


def steered_batch(lm, probe):
    """Two rows: an upper bound on all tokens; a slab on the last prompt token and the generated ones."""
    plans = [
        Plan((Constraint(probe, bounds, prompt=prompt),))
        for bounds, prompt in zip(BOUNDS, ("all", "last"), strict=True)
    ]
    sampling = Sampling(max_tokens=NEW, temperature=0.8, seed=3, ignore_eos=True)
    return [Request(prompt, sampling, plan) for prompt, plan in zip(PROMPTS, plans, strict=True)]


def values(probe, layer, stored, row):
    """Logits of `row` at the tokens its plan covers, one list over all passes, in float64."""
    fitted = probe.at(layer)
    first = len(PROMPTS[row]) if row == 0 else 1
    resid = [passed[row, -first:] if step == 0 else passed[row] for step, passed in enumerate(stored)]
    return torch.cat(resid).double().numpy() @ fitted.weight.double().numpy() + fitted.bias


def check(lm, make_probe, received, *, stored_as):
    probe = make_probe(lm, seed=11)
    with received(lm.model) as stored:
        done = generate(lm, steered_batch(lm, probe))
    for row, bounds in enumerate(BOUNDS):
        report = done[row].steering.probes[probe.id]
        assert report.promised
        assert report.violations == report.capped == 0
        assert 0 < report.edited <= report.tokens == (len(PROMPTS[row]) if row == 0 else 1) + NEW - 1
        for layer in range(4):
            assert {passed.dtype for passed in stored[layer]} == {stored_as}
            logits = values(probe, layer, stored[layer], row)
            assert len(logits) == report.tokens
            assert logits.max() <= bounds.upper, (layer, row)
            assert bounds.lower is None or logits.min() >= bounds.lower, (layer, row)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_stored_value_is_inside_and_none_is_a_violation(zoo, model_type, dtype, make_probe, received):
    lm = zoo(model_type, dtype=dtype)
    widened = model_type in ("mamba", "mamba2", "falcon_mamba")  # residual_in_fp32
    check(lm, make_probe, received, stored_as=torch.float32 if widened else dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("model_type", ["mamba", "mamba2", "falcon_mamba"])
def test_it_holds_for_a_mamba_that_stores_half_precision(zoo, model_type, dtype, make_probe, received):
    model = copy.deepcopy(zoo(model_type, dtype=dtype).model)
    for block in model.backbone.layers:
        block.residual_in_fp32 = False
    lm = wrap(model, zoo(model_type).tokenizer, model_id="half")
    check(lm, make_probe, received, stored_as=dtype)


def test_without_a_plan_the_same_values_are_outside(any_lm, make_probe, received):
    probe = make_probe(any_lm, seed=11)
    requests = [Request(row.prompt, row.sampling) for row in steered_batch(any_lm, probe)]
    with received(any_lm.model) as stored:
        assert [done.steering for done in generate(any_lm, requests)] == [None, None]
    assert any(np.any(values(probe, layer, stored[layer], 0) > 0.1) for layer in range(4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_probability_bound_holds_through_the_calibration(zoo, dtype, make_probe):
    lm = zoo("llama", dtype=dtype)
    probe = make_probe(lm, seed=2)
    plan = Plan((Constraint(probe, Bounds(upper=0.1), prompt="all"),))
    (done,) = generate(lm, [Request(PROMPTS[0], Sampling(max_tokens=NEW), plan)])
    report = done.steering.probes[probe.id]
    assert report.max_pre > 0.1 >= report.max_post


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mamba2", "jamba"])
def test_three_probes_hold_together_at_every_layer_beside_rows_with_one_and_none(
    zoo, model_type, dtype, make_probe, received
):
    lm = zoo(model_type, dtype=dtype)
    probes = [make_probe(lm, name=name, seed=seed) for seed, name in enumerate(("one", "two", "three"))]
    together = Plan((
        Constraint(probes[0], Bounds(upper=0.1, space="logit")),
        Constraint(probes[1], Bounds(lower=0.0, space="logit")),
        Constraint(probes[2], Bounds(lower=-1.0, upper=1.0, space="logit"), layers=(1, 2)),
    ))  # fmt: skip
    alone = Plan((Constraint(probes[1], Bounds(upper=-0.5, space="logit"), layers=(2,)),))
    sampling = Sampling(max_tokens=NEW, temperature=0, ignore_eos=True)
    with received(lm.model) as stored:
        done = generate(lm, [Request(PROMPTS[1], sampling, plan) for plan in (together, alone, None)])
    for row, plan in enumerate((together, alone)):
        for slot, constraint in enumerate(plan.constraints):
            report = done[row].steering.probes[constraint.probe.id]
            assert plan.promises(slot)
            assert report.violations == report.capped == report.infeasible == 0
            for layer in constraint.at_layers:
                fitted = constraint.probe.at(layer)
                resid = torch.cat([passed[row, -1:] for passed in stored[layer]]).double().numpy()
                logits = resid @ fitted.weight.double().numpy() + fitted.bias
                low, high = constraint.interval(layer)
                assert low <= logits.min()
                assert logits.max() <= high
    assert sum(report.edited for report in done[0].steering.probes.values()) > 0
    assert done[2].steering is None
