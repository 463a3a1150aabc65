"""Memory is taken once: rows and tokens never exceed what was reserved, and nothing grows with the requests served."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
import torch

from steering import Bounds, Constraint, Engine, Plan, Request, Sampling
from steering.engine.slots import SlotAttention, SlotState
from steering.errors import PromptTooLong

FAMILIES = ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mamba2", "jamba"))]


def storage(engine):
    """Where every tensor and table of an engine's cache and steering lies, and its bytes."""
    layers, tables = engine._runner.cache.layers, engine._runner.steering._tables
    parts = [part for layer in layers if isinstance(layer, SlotAttention) for part in (layer.keys, layer.values)]
    parts += [state for layer in layers if isinstance(layer, SlotState) for state in layer.states]
    parts += map(torch.from_numpy, (tables._vectors, tables._figures, tables._windows, tables.totals))
    return [(part.data_ptr(), part.nbytes) for part in parts]


def drawn_requests(drawn, plans, count, *, most=60, new=30):
    return [
        Request(
            tuple(drawn.randrange(256) for _ in range(drawn.randint(1, most))),
            Sampling(max_tokens=drawn.randint(1, new), seed=at, ignore_eos=True),
            drawn.choice(plans),
        )
        for at in range(count)
    ]


def plans_of(make_fitted, lm):
    low = Constraint(make_fitted(lm), Bounds(upper=0.3))
    high = Constraint(make_fitted(lm, seed=1, name="other"), Bounds(lower=0.6))
    return [None, Plan((low,)), Plan((high,)), Plan((low, high))]


@pytest.mark.parametrize("budget", [95, 200])
def test_at_every_turn_rows_and_their_tokens_are_within_the_budget(lm, by_hand, make_fitted, budget):
    engine = by_hand(lm, slots=5, row_tokens=95, cache_tokens=budget, chunk_tokens=16)
    requests = drawn_requests(random.Random(0), plans_of(make_fitted, lm), 20)
    answers, most_rows, most_tokens = [engine.submit(row) for row in requests], 0, 0
    while engine.running or engine.waiting:
        engine.turn()
        held = [*engine._batch.rows, *([engine._batch.long] if engine._batch.long else [])]
        assert len(held) == engine.running <= 5
        tokens = sum(len(job.prompt) + job.request.sampling.max_tokens for job in held)
        assert tokens <= budget
        assert all(job.read <= len(job.prompt) + job.request.sampling.max_tokens <= 95 for job in held)
        most_rows, most_tokens = max(most_rows, len(held)), max(most_tokens, tokens)
    assert most_rows == (5 if budget == 200 else most_rows)
    assert most_tokens > 0.8 * budget, "a budget nobody comes near proves nothing"
    assert all(answer.result(0).token_ids for answer in answers)


@pytest.mark.parametrize(
    ("options", "most"),
    [({"row_tokens": 50}, 50), ({"row_tokens": 50, "cache_tokens": 40}, 40), ({"cache_tokens": 30}, 30)],
    ids=str,
)
def test_what_can_never_fit_is_refused_at_the_door_with_the_numbers(lm, by_hand, options, most):
    engine = by_hand(lm, slots=2, **options)
    engine.check(Request("x" * (most - 10), Sampling(max_tokens=10)))
    with pytest.raises(PromptTooLong, match=rf"{most - 9} tokens and 10 more .* holds {most} tokens") as refused:
        engine.submit(Request("x" * (most - 9), Sampling(max_tokens=10)))
    assert refused.value.param == "prompt"
    assert engine.waiting == 0


def test_a_row_may_fill_its_slot_to_the_last_token(lm, running, as_alone):
    requests = [Request("x" * size, Sampling(max_tokens=41 - size, temperature=0, ignore_eos=True)) for size in (1, 40)]
    with running(lm, slots=2, row_tokens=41, chunk_tokens=16) as answers:
        as_alone(lm, requests, answers(requests))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_nothing_has_grown_after_300_requests(zoo, model_type, by_hand, make_fitted):
    lm, drawn = zoo(model_type), random.Random(1)
    engine = by_hand(lm, slots=8, row_tokens=64, chunk_tokens=16)
    plans, before = plans_of(make_fitted, lm), storage(engine)
    requests = drawn_requests(drawn, plans, 300, most=16, new=5)
    for at in range(0, 300, 25):
        answers = [engine.submit(row) for row in requests[at : at + 25]]
        for answer in drawn.sample(answers, k=3):
            answer.cancel()
        engine.finish()
        assert all(answer.cancelled() or answer.result(0).token_ids for answer in answers)
    assert storage(engine) == before
    steering = engine._runner.steering
    assert not any(steering._rows)
    assert not any(steering._accounts)
    assert not steering._compiled
    assert not steering._tables._placed
    assert not any(steering._tables._users)


def test_an_answer_that_was_given_is_not_kept(lm, by_hand, make_fitted):
    engine = by_hand(lm, slots=2)
    requests = drawn_requests(random.Random(2), plans_of(make_fitted, lm), 6)
    kept = [weakref.ref(row) for row in requests]
    answers = [weakref.ref(engine.submit(row)) for row in requests]
    engine.finish()
    del requests
    gc.collect()
    assert [ref() for ref in (*kept, *answers)] == [None] * 12


def test_the_cache_is_as_large_as_it_says(lm):
    with Engine(lm, slots=3, row_tokens=64) as engine:
        config = lm.model.config
        head = config.hidden_size // config.num_attention_heads
        rows, floats = 3 + 1, 2 * config.num_hidden_layers * config.num_key_value_heads * 64 * head
        assert engine.cache_bytes == rows * floats * torch.finfo(torch.float32).bits // 8
