"""The engine as its callers see it: many threads, one model; checked at the door, told as it is written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from steering import Bounds, Constraint, Engine, Plan, Request, Sampling, generate
from steering.errors import EngineUnavailable, InvalidRequest, UnsupportedSteering

WAIT = 30


def request(text="abc", plan=None, *, logprobs=None, **sampling):
    return Request(text, Sampling(**{"max_tokens": 5, "seed": 1} | sampling), plan, logprobs=logprobs)


def test_callers_in_many_threads_get_what_each_gets_alone(lm, probe, as_alone):
    plans = [None, *(Plan((Constraint(probe, Bounds(upper=upper), prompt="all"),)) for upper in (0.2, 0.5))]
    requests = [request(f"prompt {'x' * (i % 7)}", plans[i % 3], seed=i, max_tokens=1 + i % 6) for i in range(24)]
    with Engine(lm, slots=4) as engine, ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda row: engine.submit(row).result(WAIT), requests))
    as_alone(lm, requests, answers)


def test_a_request_that_cannot_be_carried_out_is_refused_at_once(lm, by_hand, probe, offset_plan, zoo):
    engine = by_hand(lm)
    narrow = Plan((Constraint(probe, Bounds(lower=0.0, upper=1e-9, space="logit")),))
    for bad in (
        request(" "),
        request("x" * 300),
        request(plan=narrow),
        request(logit_bias={300: 1.0}),
        request(stop_ids=(300,)),
    ):
        with pytest.raises(InvalidRequest):
            engine.check(bad)
        with pytest.raises(InvalidRequest):
            engine.submit(bad)
    with pytest.raises(UnsupportedSteering, match="no recurrent state"):
        engine.submit(request(plan=offset_plan(zoo("mamba2"))))
    assert engine.check(request("abcd")) == 4
    assert engine.waiting == 0


def test_a_full_queue_is_refused_with_the_time_to_wait_and_the_rest_is_answered(lm, by_hand):
    engine = by_hand(lm, slots=1, max_queue=2)
    answers = [engine.submit(request())]
    engine.turn()
    answers += [engine.submit(request()) for _ in range(2)]
    assert (engine.running, engine.waiting) == (1, 2)
    with pytest.raises(EngineUnavailable, match="2 requests are waiting") as refused:
        engine.submit(request())
    assert refused.value.retry_after > 0
    engine.finish()
    assert len({tuple(answer.result(0).token_ids) for answer in answers}) == 1


def test_requests_queued_together_get_the_same_to_the_last_bit_every_time(lm, probe):
    plan = Plan((Constraint(probe, Bounds(upper=0.2)),))
    requests = [
        Request("row " * (1 + at % 5), Sampling(max_tokens=5 + at % 4, seed=at), plan if at % 2 else None, logprobs=1)
        for at in range(11)
    ]
    found = []
    for _ in range(2):
        with Engine(lm, slots=3) as engine:
            found.append([answer.result(30) for answer in engine.submit_all(requests)])
            found.append([answer.result(30) for answer in engine.submit_all(requests)])
    assert all(answers == found[0] for answers in found[1:])


def test_of_requests_queued_together_none_is_queued_when_one_cannot_be(lm, by_hand):
    engine = by_hand(lm, slots=1, max_queue=2)
    fine = Request("one", Sampling(max_tokens=4))
    with pytest.raises(InvalidRequest):
        engine.submit_all([fine, Request("", Sampling(max_tokens=4))])
    with pytest.raises(EngineUnavailable, match="waiting already"):
        engine.submit_all([fine] * 3)
    assert engine.waiting == 0
    assert len(engine.submit_all([fine] * 2)) == engine.waiting == 2


def test_live_traffic_goes_before_evaluation(lm, by_hand):
    engine, order = by_hand(lm, slots=1), []
    for name, priority in (("a", "background"), ("b", "background"), ("c", "live"), ("d", "live")):
        answer = engine.submit(request(), priority=priority)
        answer.add_done_callback(lambda done, name=name: order.append(name))
    engine.finish()
    assert order == ["c", "d", "a", "b"]


def test_a_row_that_ends_makes_room_in_the_same_turn(lm, by_hand):
    """Nobody waits for the slowest of a batch: 2 slots, and a long text beside three short ones."""
    engine, turns = by_hand(lm, slots=2), 0
    slow = engine.submit(request(max_tokens=24, ignore_eos=True))
    quick = [engine.submit(request(max_tokens=8, ignore_eos=True)) for _ in range(3)]
    while not all(answer.done() for answer in (slow, *quick)):
        engine.turn()
        turns += 1
        assert engine.running + engine.waiting == sum(not answer.done() for answer in (slow, *quick))
    assert turns <= 24


@pytest.mark.parametrize("which", ["lm", "mamba_lm"])
def test_a_listener_is_told_every_token_as_it_is_taken(which, by_hand, request: pytest.FixtureRequest):
    lm = request.getfixturevalue(which)
    engine, told, turns = by_hand(lm, slots=2), [], []
    row = Request("a prompt", Sampling(max_tokens=9, temperature=0, ignore_eos=True), logprobs=2)
    answer = engine.submit(row, listener=lambda news: told.append((len(turns), news)))
    while not answer.done():
        engine.turn()
        turns.append("taken")
    done, news = answer.result(0), [item for _, item in told]
    assert [turn for turn, _ in told] == [0, 0, 1, 2, 3, 4, 5, 6, 7], (
        "the first turn reads the prompt, and writes twice"
    )
    assert [item.token_id for item in news] == done.token_ids
    assert "".join(item.text for item in news) == done.text
    assert [item.logprob for item in news] == done.logprobs
    assert [item.finish_reason for item in news] == [None] * 8 + ["length"]


def test_the_self_test_is_that_of_the_model_and_an_engine_closes_itself(lm):
    with Engine(lm) as engine:
        assert engine.self_test.violations == 0
        assert engine.alive
        answer = engine.submit(request())
    assert not engine.alive
    (alone,) = generate(lm, [request()])
    assert answer.result(0).token_ids == alone.token_ids
