"""Log-probabilities and echo against a plain forward pass of the model, steered ones against hooks set by hand.

log p = logit - log sum exp logits, of the logits as the model gave them: no temperature, bias or penalty.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from steering import Bounds, Constraint, Plan, Request, Sampling, steer
from steering.errors import InvalidRequest
from steering.slab import project, slab

CHUNK = 16
FAMILIES = ["llama", "mistral", "mamba", "mamba2", "jamba"]


@torch.inference_mode()
def reference(lm, ids):
    """(tokens, vocab): what one full pass without a cache thinks of what follows each token."""
    return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)


def check(entries, tokens, expected, top):
    """`expected` (tokens, vocab) holds the log-probabilities at the places `tokens` were drawn or read."""
    assert len(entries) == len(tokens) == len(expected)
    for entry, token, logprobs in zip(entries, tokens, expected, strict=True):
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(logprobs[token]), abs=1e-4)
        best = logprobs.topk(top).values.tolist() if top else []
        assert [much for _, much in entry.top] == pytest.approx(best, abs=1e-4)
        assert [float(logprobs[which]) for which, _ in entry.top] == pytest.approx(best, abs=1e-4)


def answers_of(lm, requests, by_hand):
    engine = by_hand(lm, slots=4, chunk_tokens=CHUNK)
    futures = [engine.submit(request) for request in requests]
    engine.finish()
    return [future.result(0) for future in futures]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_they_are_those_of_one_full_pass(zoo, model_type, by_hand):
    lm = zoo(model_type)
    changed = Sampling(max_tokens=7, top_k=9, logit_bias={7: 3.0}, repetition_penalty=1.2, ignore_eos=True)
    requests = [
        Request(
            tuple((at * at * 5 + size) % 256 for at in range(size)),
            replace(changed, temperature=1.3 * (size % 2), seed=size),
            logprobs=top,
            echo=echo,
        )
        for size, top, echo in ((1, 0, True), (2, 3, True), (9, 20, False), (15, 5, True), (2 * CHUNK + 1, 2, True))
    ]
    for request, done in zip(requests, answers_of(lm, requests, by_hand), strict=True):
        ids, size = [*request.prompt, *done.token_ids], len(request.prompt)
        expected = reference(lm, ids)
        check(done.logprobs, done.token_ids, expected[size - 1 : -1], request.logprobs)
        if not request.echo:
            assert done.prompt_logprobs is None
            continue
        assert done.prompt_logprobs[0] is None
        check(done.prompt_logprobs[1:], request.prompt[1:], expected[: size - 1], request.logprobs)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_of_a_steered_row_they_are_those_the_steered_model_gives(zoo, model_type, by_hand, make_probe):
    """The same slab as hooks by hand: at layers 1 and 2, on every token of prompt and text."""
    lm = zoo(model_type)
    probe = make_probe(lm, layers=[1, 2])
    constraint = Constraint(probe, Bounds(upper=-0.5, space="logit"), prompt="all")
    sampling = Sampling(max_tokens=6, temperature=0, ignore_eos=True)
    requests = [
        Request(tuple(range(3, 3 + size)), sampling, Plan((constraint,)), logprobs=3, echo=True)
        for size in (4, 2 * CHUNK + 3)
    ]
    held = {layer: slab(read.weight, read.bias, high=-0.5) for layer, read in probe.layers.items()}
    hooks = {layer: lambda resid, one=one: project(resid, one).resid for layer, one in held.items()}
    moved = 0.0
    for request, done in zip(requests, answers_of(lm, requests, by_hand), strict=True):
        ids, size = [*request.prompt, *done.token_ids], len(request.prompt)
        with steer(lm.model, hooks):
            expected = reference(lm, ids)
        check(done.logprobs, done.token_ids, expected[size - 1 : -1], 3)
        check(done.prompt_logprobs[1:], request.prompt[1:], expected[: size - 1], 3)
        moved = max(moved, float((expected - reference(lm, ids)).abs().max()))
    assert moved > 0.1, "steering that changes nothing proves nothing"


def test_the_probabilities_of_all_alternatives_add_up_to_at_most_one(lm, by_hand):
    request = Request("abc", Sampling(max_tokens=5, seed=2), logprobs=20, echo=True)
    (done,) = answers_of(lm, [request], by_hand)
    for entry in (*done.logprobs, *done.prompt_logprobs[1:]):
        falling = [much for _, much in entry.top]
        assert falling == sorted(falling, reverse=True)
        assert len({which for which, _ in entry.top}) == 20
        assert sum(map(math.exp, falling)) <= 1 + 1e-5
        assert entry.logprob <= falling[0] + 1e-6


def test_the_token_that_ends_a_text_has_its_log_probability_too(lm, by_hand):
    request = Request("abc", Sampling(max_tokens=9, temperature=0, logit_bias={258: 100.0}), logprobs=0)
    (done,) = answers_of(lm, [request], by_hand)
    assert done.token_ids == [258]
    check(done.logprobs, [258], reference(lm, lm.tokenizer("abc")["input_ids"])[-1:], 0)
    assert done.text == ""


def test_without_being_asked_for_there_are_none(lm, by_hand):
    (done,) = answers_of(lm, [Request("abc", Sampling(max_tokens=2))], by_hand)
    assert (done.logprobs, done.prompt_logprobs) == (None, None)


@pytest.mark.parametrize(
    ("asked", "param"), [({"logprobs": 21}, "logprobs"), ({"logprobs": -1}, "logprobs"), ({"echo": True}, "echo")]
)
def test_what_cannot_be_told_is_refused_by_name(asked, param):
    with pytest.raises(InvalidRequest, match="logprobs") as refused:
        Request("abc", **asked)
    assert refused.value.param == param
