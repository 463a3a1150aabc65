"""What fails in a row ends that row, and leaves nothing in its place: NaN logits, a listener that raises."""

from __future__ import annotations

import copy

import pytest
import torch

from steering import Request, Sampling, wrap
from steering.errors import InvalidRequest

CHUNK = 16
BAD = 77
"""The token whose embedding is NaN in `poisonous` models."""
GREEDY = Sampling(max_tokens=8, temperature=0, ignore_eos=True)


def row(tokens=5, *, seed=0):
    return Request(tuple((seed + 7 * at * at) % 76 for at in range(tokens)), GREEDY)


def bad(tokens=5, at=1):
    return Request((*row(tokens).prompt[:at], BAD, *row(tokens).prompt[at + 1 :]), GREEDY)


@pytest.fixture
def poisonous(zoo):
    """A model of a type that has one token it cannot read."""

    def make(model_type):
        model = copy.deepcopy(zoo(model_type).model)
        with torch.no_grad():
            model.get_input_embeddings().weight[BAD] = torch.nan
            head = model.get_output_embeddings().weight
            if head is model.get_input_embeddings().weight:
                model.get_output_embeddings().weight = torch.nn.Parameter(head.nan_to_num(0.0))
        return wrap(model, zoo(model_type).tokenizer, model_id="poisonous")

    return make


@pytest.mark.parametrize("model_type", ["llama", "mistral", "mamba", "mamba2", "jamba"])
def test_a_row_whose_logits_are_nan_ends_alone_and_nothing_of_it_stays(poisonous, model_type, by_hand, as_alone):
    lm = poisonous(model_type)
    engine = by_hand(lm, slots=3, chunk_tokens=CHUNK)
    requests = [row(9, seed=1), bad(13), row(4, seed=2), bad(3), *(row(3 + at, seed=at) for at in range(6))]
    answers = [engine.submit(request) for request in requests]
    engine.finish()
    good = [at for at in range(len(requests)) if at not in (1, 3)]
    as_alone(lm, [requests[at] for at in good], [answers[at].result(0) for at in good])
    for at in (1, 3):
        with pytest.raises(InvalidRequest, match="NaN logits"):
            answers[at].result(0)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "mamba", "mamba2", "jamba"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_long_prompt_of_nan_leaves_nothing_to_the_next_long_one(poisonous, model_type, cancelled, by_hand, as_alone):
    lm = poisonous(model_type)
    engine = by_hand(lm, slots=2, chunk_tokens=CHUNK)
    lost, next_one = engine.submit(bad(4 * CHUNK, at=3 * CHUNK - 2)), row(2 * CHUNK + 3, seed=1)
    if cancelled:
        while engine._batch.long is None or engine._batch.long.read < 3 * CHUNK:
            engine.turn()
        lost.cancel()
    else:
        engine.finish()
        with pytest.raises(InvalidRequest, match="NaN logits"):
            lost.result(0)
    answer = engine.submit(next_one)
    engine.finish()
    as_alone(lm, [next_one], [answer.result(0)])


def test_nan_in_the_middle_of_a_text_ends_only_that_row(lm, by_hand, as_alone, monkeypatch):
    engine = by_hand(lm, slots=3)
    requests = [row(5 + at, seed=at) for at in range(3)]
    answers = [engine.submit(request) for request in requests]
    engine.turn(3)
    real = engine._runner.read

    def read(*args, **options):
        logits = real(*args, **options).clone()
        logits[1] = torch.nan
        for layer in engine._runner.cache.layers:
            layer.keys[1], layer.values[1] = torch.nan, torch.nan
        return logits

    monkeypatch.setattr(engine._runner, "read", read)
    engine.turn()
    monkeypatch.setattr(engine._runner, "read", real)
    with pytest.raises(InvalidRequest, match="NaN logits"):
        answers[1].result(0)
    last = row(7, seed=7)
    after = [engine.submit(request) for request in (last, last)]
    engine.finish()
    done = [answers[0], answers[2], *after]
    as_alone(lm, [requests[0], requests[2], last, last], [answer.result(0) for answer in done])


@pytest.mark.parametrize("token", [0, 3, 7])
def test_a_listener_that_raises_ends_its_row_only(lm, token, by_hand, as_alone):
    engine, told = by_hand(lm, slots=3), []

    def hear(news):
        told.append(news)
        if len(told) > token:
            raise ValueError("a listener of ours")

    requests = [row(5 + at, seed=at) for at in range(3)]
    answers = [engine.submit(request, listener=hear if at == 1 else None) for at, request in enumerate(requests)]
    engine.finish()
    with pytest.raises(ValueError, match="a listener of ours"):
        answers[1].result(0)
    assert len(told) == token + 1
    as_alone(lm, requests[::2], [answers[0].result(0), answers[2].result(0)])
