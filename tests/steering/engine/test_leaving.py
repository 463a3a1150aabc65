"""Who no longer waits leaves between two steps: cancelled at any moment, or late; the others do not notice."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait
from types import SimpleNamespace

import pytest

from steering import Bounds, Constraint, Engine, Plan, Request, Sampling
from steering.errors import DeadlineExceeded, EngineUnavailable

CHUNK = 16
FAMILIES = ["llama", "mamba2", "jamba"]
GREEDY = Sampling(max_tokens=12, temperature=0, ignore_eos=True)


def row(tokens=5, plan=None, sampling=GREEDY, seed=0):
    return Request(tuple((seed + 7 * at * at) % 256 for at in range(tokens)), sampling, plan, logprobs=1)


@pytest.fixture
def clock(monkeypatch):
    """`clock.skip(seconds)` lets time pass for the engine."""
    skipped = [0.0]
    monkeypatch.setattr("steering.engine.job.time", SimpleNamespace(monotonic=lambda: time.monotonic() + sum(skipped)))
    return SimpleNamespace(skip=skipped.append)


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_cancelled_row_is_gone_in_the_next_turn_and_its_place_taken(
    zoo, model_type, place, by_hand, make_probe, as_alone
):
    lm = zoo(model_type)
    probe, engine = make_probe(lm), by_hand(lm, slots=3, chunk_tokens=64)
    plans = [Plan((Constraint(probe, Bounds(upper=upper)),)) for upper in (0.1, 0.3, 0.5)]
    requests = [row(5 + at, plan, seed=at) for at, plan in enumerate(plans)]
    answers = [engine.submit(request) for request in requests]
    engine.turn(3)
    next_one = row(9, plans[0], seed=9)
    after = engine.submit(next_one)
    engine.turn()
    assert (engine.running, engine.waiting) == (3, 1)
    assert answers[place].cancel()
    engine.turn()
    assert (engine.running, engine.waiting) == (3, 0)
    engine.finish()
    kept = [at for at in range(3) if at != place]
    as_alone(lm, [*(requests[at] for at in kept), next_one], [*(answers[at].result(0) for at in kept), after.result(0)])


@pytest.mark.parametrize("turns", range(0, 14, 2))
def test_a_request_can_be_cancelled_after_any_number_of_turns(lm, turns, by_hand, as_alone):
    engine = by_hand(lm, slots=2, chunk_tokens=CHUNK)
    stays, leaves = row(5), row(3 * CHUNK, seed=1)
    kept, dropped = engine.submit(stays), engine.submit(leaves)
    engine.turn(turns)
    assert dropped.cancel(), "it is never marked as running"
    engine.turn()
    assert engine.running == (0 if kept.done() else 1)
    engine.finish()
    as_alone(lm, [stays], [kept.result(0)])
    assert dropped.cancelled()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_long_prompt_that_is_cancelled_makes_room_for_the_next(zoo, model_type, by_hand, make_probe, as_alone):
    lm = zoo(model_type)
    engine = by_hand(lm, slots=2, chunk_tokens=CHUNK)
    plan = Plan((Constraint(make_probe(lm), Bounds(upper=0.3), prompt="all"),))
    leaves, comes = row(4 * CHUNK, plan), row(2 * CHUNK + 5, plan, seed=1)
    dropped, answer = engine.submit(leaves), engine.submit(comes)
    engine.turn(2)
    dropped.cancel()
    engine.finish()
    as_alone(lm, [comes], [answer.result(0)])


def test_whoever_waits_for_several_answers_is_told_of_the_cancelled_ones(lm, by_hand):
    """`concurrent.futures.wait` goes on only when the one who works has taken note of a cancellation."""
    engine = by_hand(lm, slots=2, chunk_tokens=CHUNK)
    answers = [engine.submit(row(size)) for size in (4, 3 * CHUNK, 5)]
    engine.turn(2)
    assert (engine.running, engine.waiting) == (2, 1)
    for answer in answers:
        assert answer.cancel()
    engine.turn()
    assert wait(answers, timeout=5).not_done == set()


def test_a_row_cancelled_by_its_own_listener_is_over(lm, by_hand):
    engine, told = by_hand(lm, slots=2), []
    answers = []

    def hear(news):
        told.append(news.token_id)
        if len(told) == 3:
            answers[0].cancel()

    answers.append(engine.submit(row(), listener=hear))
    engine.finish()
    assert len(told) == 3
    assert wait(answers, timeout=5).not_done == set()


@pytest.mark.parametrize(("case", "turns"), [("waiting", 0), ("reading", 2), ("writing", 9)])
def test_a_deadline_ends_a_request_whatever_it_does(lm, case, turns, clock, by_hand, as_alone):
    engine = by_hand(lm, slots=1 if case == "waiting" else 2, chunk_tokens=CHUNK)
    patient = row(5, sampling=Sampling(max_tokens=20, temperature=0, ignore_eos=True))
    kept = engine.submit(patient)
    late = engine.submit(row(5 if case == "waiting" else 5 * CHUNK, seed=1), seconds=30)
    engine.turn(1 + turns)
    assert not late.done()
    clock.skip(31)
    engine.turn()
    with pytest.raises(DeadlineExceeded, match="within the 30 seconds"):
        late.result(0)
    assert (engine.running, engine.waiting) == (1, 0)
    engine.finish()
    as_alone(lm, [patient], [kept.result(0)])


def test_whoever_is_late_may_ask_again_at_once(lm, clock, by_hand):
    """From the callback of the answer, which runs in the engine's thread."""
    engine, again = by_hand(lm, slots=1), []
    engine.submit(row(seed=1))
    for seed in range(3):
        answer = engine.submit(row(seed=seed), seconds=30)
        answer.add_done_callback(lambda late: again.append(engine.submit(row(seed=5))))
    engine.turn()
    clock.skip(31)
    engine.finish()
    assert len(again) == 3
    assert all(answer.result(0).token_ids for answer in again)


def test_an_answer_in_time_is_an_answer(lm, clock, by_hand):
    engine = by_hand(lm, slots=1)
    answer = engine.submit(row(), seconds=30)
    clock.skip(29)
    engine.finish()
    assert answer.result(0).token_ids
    clock.skip(10)
    assert not answer.cancel()


def test_close_answers_what_is_queued_then_refuses(lm):
    engine = Engine(lm, slots=2)
    answers = [engine.submit(row(seed=at)) for at in range(5)]
    engine.close()
    assert all(answer.result(0).token_ids for answer in answers)
    assert not engine.alive
    assert engine.failure is None
    with pytest.raises(EngineUnavailable, match="shutting down"):
        engine.submit(row())
    engine.close()  # twice is safe


def test_stopping_ends_what_runs_what_is_read_and_what_waits_within_a_step(lm, by_hand):
    engine = by_hand(lm, slots=2, chunk_tokens=CHUNK)
    answers = [engine.submit(row(size, seed=size)) for size in (5, 4 * CHUNK, 6, 7)]
    engine.turn(2)
    assert (engine.running, engine.waiting) == (2, 2)
    engine.stop()
    engine.close()
    for answer in answers:
        with pytest.raises(EngineUnavailable, match="stopped before this answer"):
            answer.result(0)
    assert not engine.alive
    assert engine.failure is None


def test_a_request_that_comes_while_the_engine_ends_is_refused_and_not_forgotten(lm, by_hand, monkeypatch):
    """Between the look at `alive` and the queue, when the thread has emptied the queue for the last time."""
    engine = by_hand(lm, slots=1)
    drained, pushed, waiting = threading.Event(), threading.Event(), engine._waiting
    drain, push = waiting.drain, waiting.push

    def last_drain():
        left = drain()
        drained.set()
        pushed.wait(1)
        return left

    def late_push(job):
        engine.stop()
        engine.release()
        assert drained.wait(10)
        push(job)

    monkeypatch.setattr(waiting, "drain", last_drain)
    monkeypatch.setattr(waiting, "push", late_push)
    with pytest.raises(EngineUnavailable):
        engine.submit(row()).result(5)
    pushed.set()
