"""A prompt read in chunks is a prompt read in one pass; while it is read, nobody else waits for longer than a chunk.

Time is counted in turns and tokens, not in seconds: `ByHand` engines take one turn when told.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from steering import Bounds, Constraint, Engine, Plan, Request, Sampling
from steering.controllers.base import Settings

ONE_BY_ONE = {"falcon_mamba", "jamba", "mamba"}
"""Transformers reads their prompts from a state of zero, whatever they have read before."""
FAMILIES = ["llama", "mistral", "mamba2", "jamba"]
FAMILIES += [pytest.param(name, marks=pytest.mark.slow) for name in ("falcon_mamba", "gemma2", "mamba", "zamba2")]
CHUNK = 16
GREEDY = Sampling(max_tokens=6, temperature=0, ignore_eos=True)


def long(tokens=5 * CHUNK + 3, plan=None, sampling=GREEDY, **asked):
    return Request(tuple((7 * at * at + 3) % 256 for at in range(tokens)), sampling, plan, **asked)


def plans(make_fitted, lm):
    low = Constraint(make_fitted(lm), Bounds(upper=0.3))
    other = Constraint(make_fitted(lm, seed=1, name="other"), Bounds(lower=0.6))
    pushed = Constraint(make_fitted(lm), controller="additive", settings=Settings(coefficient=0.3))
    return [
        None,
        *(Plan((replace(low, prompt=policy),)) for policy in ("all", "first", "last", "none")),
        Plan((replace(low, prompt="all"), replace(other, prompt="first"))),
        Plan((replace(low, prompt="all"),), mode="monitor"),
        Plan((replace(pushed, prompt="all"),)),
        Plan((replace(low, prompt="first", generation=(0, 0)),)),
    ]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_chunks_give_the_text_the_report_and_the_echo_of_one_pass(zoo, model_type, make_fitted, running, as_alone):
    lm, chunks = zoo(model_type), 2 if model_type in ONE_BY_ONE else 5
    requests = [
        long(chunks * CHUNK + at, plan, logprobs=2, echo=True, token_scores=plan is not None)
        for at, plan in enumerate(plans(make_fitted, lm))
    ]
    with running(lm, slots=4, chunk_tokens=CHUNK) as answers:
        done = answers(requests)
    as_alone(lm, requests, done)
    assert done[1].steering.probes["toxicity@1"].tokens == chunks * CHUNK + 1 + 5
    assert done[2].steering.probes["toxicity@1"].tokens == 1 + 5


@pytest.mark.parametrize("tokens", [CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("model_type", ["llama", "mamba2"])
def test_the_edges_of_a_chunk_are_no_edges_of_the_text(zoo, model_type, tokens, make_fitted, running, as_alone):
    lm = zoo(model_type)
    requests = [long(tokens, plan, logprobs=0, echo=True) for plan in plans(make_fitted, lm)[:3]]
    with running(lm, slots=4, chunk_tokens=CHUNK) as answers:
        as_alone(lm, requests, answers(requests))


def test_only_models_that_cannot_continue_read_one_by_one(any_lm, model_type):
    with Engine(any_lm, slots=1) as engine:
        assert engine._runner.continues == (model_type not in ONE_BY_ONE)


@pytest.mark.parametrize("model_type", ["llama", "jamba"])
def test_a_row_that_writes_gets_a_token_in_every_turn_while_a_long_prompt_is_read(zoo, model_type, by_hand, as_alone):
    lm, turn, news = zoo(model_type), 0, {}
    engine = by_hand(lm, slots=8, chunk_tokens=CHUNK)

    def hear(name):
        return lambda told: news.setdefault(name, []).append(turn)

    writers = [long(5, sampling=replace(GREEDY, max_tokens=60, seed=at)) for at in range(3)]
    answers = [engine.submit(row, listener=hear(at)) for at, row in enumerate(writers)]
    engine.turn()
    reader = long(6 * CHUNK)
    last = engine.submit(reader, listener=hear("long"))
    late = [long(3 + at) for at in range(4)]
    for turn in range(1, 60):
        if late and turn % 2:
            row = late.pop()
            writers.append(row)
            answers.append(engine.submit(row, listener=hear(len(answers))))
        engine.turn()
        assert all(news[at][-1] == turn for at in range(3)), "a turn without a token"
        if last.done():
            break
    assert last.done()
    assert all(answer.done() for answer in answers[3:]), "short prompts passed the long one"
    assert max(news["long"]) > max(news[3])
    engine.finish()
    as_alone(lm, [*writers, reader], [answer.result(0) for answer in [*answers, last]])


def test_a_turn_reads_at_most_a_chunk_while_somebody_writes_or_four_while_as_many_could_join(lm, by_hand, monkeypatch):
    engine = by_hand(lm, slots=8, chunk_tokens=CHUNK)
    passes, real = [], engine._runner.read

    def read(first, rows, lengths, offsets, *, whole):
        if offsets[0] < 0:
            passes.append(len(rows) * max(map(len, rows)))
        return real(first, rows, lengths, offsets, whole=whole)

    monkeypatch.setattr(engine._runner, "read", read)
    engine.submit(long(4, sampling=replace(GREEDY, max_tokens=100)))
    engine.turn()
    for tokens in (3 * CHUNK, 7, 7, 7, 2 * CHUNK + 1, 9, CHUNK, 1, 1, 1):
        engine.submit(long(tokens))
    calm = 0
    while engine.running > 1 or engine.waiting:
        before, writing = len(passes), engine.running
        rush = min(engine.slots - writing, engine.waiting) >= writing
        engine.turn()
        assert sum(passes[before:]) <= (4 if rush else 1) * CHUNK
        calm += not rush and len(passes) > before
    assert calm > 3
    assert sum(passes) >= 5 * CHUNK + 1 + 4 * 7


def test_a_long_prompt_that_waits_is_next_however_many_short_ones_come(lm, by_hand):
    """Short prompts pass a long one only while another long one is being read."""
    engine = by_hand(lm, slots=4, chunk_tokens=CHUNK)
    first, second = engine.submit(long(4 * CHUNK)), engine.submit(long(4 * CHUNK))
    for _ in range(60):
        engine.submit(long(3))
        engine.turn()
        if second.done():
            break
    assert first.done()
    assert second.done()
