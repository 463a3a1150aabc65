"""No row can feel another: its text, log-probabilities and report are those it has alone in the plain loop.

The judge is `generate` with one row. Text is equal to the letter, numbers to 1e-4 in float32.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from steering import Bounds, Constraint, Plan, Request, Sampling, generate

FAMILIES = ["llama", "mamba", "mamba2", "jamba"]
MIXED = ("jamba", "zamba2", "bamba", "mamba", "mamba2", "falcon_mamba")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, zoo):
    """One model per kind of memory: attention, two recurrences, both together."""
    return zoo(request.param)


@pytest.fixture(scope="module")
def crowd(family, many_plans, rows):
    """One request for each of 32 plans."""
    return rows(list(many_plans(family).values()))


@pytest.mark.parametrize("slots", [32, 5])
def test_among_32_plans_each_row_is_as_alone(family, crowd, slots, running, as_alone):
    with running(family, slots=slots, chunk_tokens=24) as answers:
        as_alone(family, crowd, answers(crowd))


def test_the_plans_of_the_theorem_change_the_text_in_many_ways(zoo, many_plans):
    lm = zoo("llama")
    sampling = Sampling(max_tokens=16, temperature=0, ignore_eos=True)
    texts = {
        name: generate(lm, [Request("a prompt of some length", sampling, plan)])[0].text
        for name, plan in many_plans(lm).items()
    }
    assert len(set(texts.values())) >= 20, "plans that change nothing prove nothing"
    assert texts["monitor"] == texts["monitor joint"] == texts["none"]


def test_a_sampled_row_draws_the_same_whatever_the_batch(family, crowd, many_plans, rows, running, as_alone):
    plans = list(many_plans(family).values())[::5]
    drawn = rows(plans, temperature=1.1, top_p=0.9, repetition_penalty=1.2, presence_penalty=0.5)
    with running(family, slots=4, chunk_tokens=24) as answers:
        few = answers(drawn)
        shuffled = random.Random(1).sample([*drawn, *crowd[::5]], k=14)
        many = dict(zip(map(id, shuffled), answers(shuffled), strict=True))
    as_alone(family, drawn, few)
    assert [many[id(row)].token_ids for row in drawn] == [done.token_ids for done in few]


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_whose_neighbours_leave_at_random_are_as_alone(family, crowd, seed, by_hand, as_alone):
    drawn = random.Random(seed)
    requests = drawn.sample(crowd, k=14)
    engine = by_hand(family, slots=6, chunk_tokens=24)
    waiting, sent = list(requests), []
    while waiting or engine.running or engine.waiting:
        for _ in range(min(drawn.randrange(4), len(waiting))):
            row = waiting.pop()
            sent.append((row, engine.submit(row)))
        if engine.running or engine.waiting:
            engine.turn()
        if drawn.random() < 0.4:
            drawn.choice(sent)[1].cancel() if sent else None
    kept = [(row, future.result(0)) for row, future in sent if not future.cancelled()]
    assert 4 <= len(kept) <= 12
    as_alone(family, *zip(*kept, strict=True))


def test_every_architecture_writes_what_it_writes_alone(any_lm, make_probe, running, as_alone):
    """Sliding windows, softcapped attention, shared layers, experts: all twenty, in mixed company."""
    low, high = (Constraint(make_probe(any_lm, name=name), Bounds(upper=0.3)) for name in ("one", "two"))
    plans = [None, Plan((low,)), Plan((replace(low, prompt="all"),)), Plan((low, high)), Plan((high,), mode="monitor")]
    requests = [
        Request(
            f"row {at} {'x' * (at * 11 % 37)}",
            Sampling(max_tokens=3 + at * 5 % 9, temperature=at % 2, seed=at),
            plans[at % len(plans)],
            logprobs=at % 3,
        )
        for at in range(10)
    ]
    with running(any_lm, slots=4, chunk_tokens=24) as answers:
        as_alone(any_lm, requests, answers(requests))


@pytest.mark.parametrize("model_type", MIXED)
def test_state_offsets_act_on_their_rows_only(zoo, model_type, offset_plan, make_probe, running, as_alone):
    lm = zoo(model_type)
    offset, slab = offset_plan(lm), Plan((Constraint(make_probe(lm), Bounds(upper=0.2)),))
    plans = [offset, slab, None, offset, Plan(offset.constraints[:1])]
    requests = [
        Request(text, Sampling(max_tokens=9, temperature=0, ignore_eos=True), plan)
        for text, plan in zip(["abcde", "fgh", "ijk", "a long prompt " * 4, "z"], plans, strict=True)
    ]
    with running(lm, slots=4, chunk_tokens=24) as answers:
        done = answers(requests)
    as_alone(lm, requests, done)
    assert done[3].steering.probes["toxicity@1"].edited == 8


@pytest.mark.parametrize("model_type", ["llama", "mamba2"])
def test_in_bfloat16_bounds_hold_in_any_company(zoo, model_type, many_plans, rows, running):
    """Rounding may change a text of bfloat16 with the size of the batch; what is stored keeps its bounds."""
    lm = zoo(model_type, dtype=torch.bfloat16)
    plans = {name: plan for name, plan in many_plans(lm).items() if name != "two-sided slab"}  # narrower than its grid
    requests = rows(list(plans.values())[::2])
    with running(lm, slots=6, chunk_tokens=24) as answers:
        done = answers(requests)
    promised = 0
    for request, ours in zip(requests, done, strict=True):
        assert len(ours.token_ids) == request.sampling.max_tokens
        for report in ours.steering.probes.values() if ours.steering else ():
            promised += report.promised
            assert not report.promised or (report.violations == 0 and report.tokens > 0)
    assert promised > 8


def test_eager_attention_is_by_row_too(zoo, many_plans, rows, running, as_alone, monkeypatch):
    lm = zoo("gemma2")
    monkeypatch.setattr(lm.model.config, "_attn_implementation", "eager")
    requests = rows(list(many_plans(lm).values())[:8])
    with running(lm, slots=4, chunk_tokens=24) as answers:
        as_alone(lm, requests, answers(requests))
    assert lm.model.config._attn_implementation == "eager"
