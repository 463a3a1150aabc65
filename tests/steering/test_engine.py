"""The engine: many callers, one model; each answer is the one its request gets alone, and none is left waiting."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from steering import Bounds, Constraint, Engine, Plan, Request, Sampling, generate
from steering.errors import EngineUnavailable, InvalidRequest, ModelError

WAIT = 30
"""Seconds after which a test fails instead of hanging."""


@pytest.fixture
def engine(lm):
    with Engine(lm, max_batch=4) as running:
        yield running


@pytest.fixture
def gate(monkeypatch):
    """Holds the engine's thread before each batch until opened; `entered` is set when a batch waits there."""
    opened, entered, sizes = threading.Event(), threading.Event(), []

    def held(lm, requests, **hooks):
        sizes.append(len(requests))
        entered.set()
        assert opened.wait(WAIT)
        return generate(lm, requests, **hooks)

    monkeypatch.setattr("steering.engine.generate", held)
    held.open, held.entered, held.sizes = opened, entered, sizes
    yield held
    opened.set()


def request(text="abc", plan=None, **sampling):
    return Request(text, Sampling(**{"max_tokens": 5, "seed": 1} | sampling), plan)


def test_concurrent_callers_get_what_each_gets_alone(engine, lm, probe):
    plans = [None, *(Plan((Constraint(probe, Bounds(upper=upper), prompt="all"),)) for upper in (0.2, 0.5))]
    requests = [request(f"prompt {'x' * (i % 7)}", plans[i % 3], seed=i, max_tokens=1 + i % 6) for i in range(24)]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda row: engine.submit(row).result(WAIT), requests))
    for row, answer in zip(requests, answers, strict=True):
        (alone,) = generate(lm, [row])
        assert answer.token_ids == alone.token_ids
        assert (answer.steering is None) == (row.plan is None)


def test_waiting_requests_share_a_batch_in_their_order_and_never_more_than_fit(engine, gate):
    first = engine.submit(request())
    assert gate.entered.wait(WAIT)
    answers = [engine.submit(request(f"p{i}")) for i in range(6)]
    assert engine.waiting == 6
    gate.open.set()
    for answer in [first, *answers]:
        answer.result(WAIT)
    assert gate.sizes == [1, 4, 2]


def test_a_full_queue_is_refused_with_the_time_to_wait_and_the_rest_is_answered(lm, gate):
    with Engine(lm, max_batch=1, max_queue=2) as engine:
        answers = [engine.submit(request())]
        assert gate.entered.wait(WAIT)
        answers += [engine.submit(request()) for _ in range(2)]
        with pytest.raises(EngineUnavailable, match="2 requests are waiting") as refused:
            engine.submit(request())
        assert refused.value.retry_after > 0
        gate.open.set()
        assert len({tuple(answer.result(WAIT).token_ids) for answer in answers}) == 1


def test_a_request_that_cannot_be_carried_out_is_refused_at_once(engine, probe):
    narrow = Plan((Constraint(probe, Bounds(lower=0.0, upper=1e-9, space="logit")),))
    for bad in (request(" "), request("x" * 300), request(plan=narrow)):
        with pytest.raises(InvalidRequest):
            engine.submit(bad)
    assert engine.check(request("abcd")) == 4
    assert engine.waiting == 0


def test_a_failing_row_ends_only_itself(engine, gate, monkeypatch):
    def failing(lm, requests, **hooks):
        if any(row.prompt == "bad" for row in requests):
            raise ModelError("this row overflows")
        return generate(lm, requests, **hooks)

    first = engine.submit(request())
    assert gate.entered.wait(WAIT)
    bad, good = engine.submit(request("bad")), engine.submit(request("good"))
    monkeypatch.setattr("steering.engine.generate", failing)
    gate.open.set()
    assert first.result(WAIT).token_ids
    assert good.result(WAIT).token_ids
    with pytest.raises(ModelError, match="overflows"):
        bad.result(WAIT)
    assert engine.alive
    assert engine.submit(request()).result(WAIT).token_ids


def test_a_cancelled_request_is_skipped(engine, gate):
    first = engine.submit(request())
    assert gate.entered.wait(WAIT)
    dropped, kept = engine.submit(request()), engine.submit(request())
    assert dropped.cancel()
    assert not first.cancel(), "its batch runs"
    gate.open.set()
    assert kept.result(WAIT).token_ids
    assert first.result(WAIT).token_ids
    assert gate.sizes == [1, 1]


def test_a_batch_that_was_cancelled_whole_is_no_trouble(engine, gate):
    engine.submit(request())
    assert gate.entered.wait(WAIT)
    assert engine.submit(request()).cancel()
    gate.open.set()
    while engine.waiting:
        pass
    assert engine.submit(request()).result(WAIT).token_ids
    assert engine.alive


def test_close_answers_what_is_queued_then_refuses(lm, gate):
    engine = Engine(lm, max_batch=2)
    answers = [engine.submit(request()) for _ in range(5)]
    assert gate.entered.wait(WAIT)
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.open.set()
    closing.join(WAIT)
    assert not closing.is_alive()
    assert all(answer.result(0).token_ids for answer in answers)
    assert not engine.alive
    assert engine.failure is None
    with pytest.raises(EngineUnavailable, match="shutting down"):
        engine.submit(request())
    engine.close()  # twice is safe


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_reported_and_nobody_is_left_waiting(lm, gate, monkeypatch):
    def dying(lm, requests, **hooks):
        raise SystemExit("out of memory, say")

    engine = Engine(lm, max_batch=1)
    first = engine.submit(request())
    assert gate.entered.wait(WAIT)
    second, third = engine.submit(request()), engine.submit(request())
    monkeypatch.setattr("steering.engine.generate", dying)
    gate.open.set()
    assert first.result(WAIT).token_ids
    for lost in (second, third):
        with pytest.raises(EngineUnavailable):
            lost.result(WAIT)
    assert not engine.alive
    assert isinstance(engine.failure, SystemExit)
    with pytest.raises(EngineUnavailable, match=r"failed \(SystemExit\)"):
        engine.submit(request())
    engine.close()


def test_a_close_that_races_with_late_callers_still_ends(lm, gate):
    """Callers who saw the engine alive may fill the queue while it ends: it must not wait for room nobody makes."""
    engine = Engine(lm, max_batch=4, max_queue=2)
    first = engine.submit(request())
    assert gate.entered.wait(WAIT)
    second = engine.submit(request())
    job = engine._jobs.queue[0]
    real = engine._jobs.get_nowait

    def get_nowait():
        found = real()
        if found is None:
            for _ in range(2):
                engine._jobs.put_nowait(replace(job, answer=Future()))
        return found

    engine._jobs.get_nowait = get_nowait
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    while engine.waiting < 2:  # the call to end stands behind the second request
        pass
    gate.open.set()
    closing.join(5)
    assert not closing.is_alive()
    assert first.result(0).token_ids == second.result(0).token_ids


@pytest.mark.parametrize("which", ["lm", "mamba_lm"])
def test_slab_joint_placebo_and_monitor_rows_do_not_feel_one_another(which, request, make_probe):
    lm = request.getfixturevalue(which)
    one, two = make_probe(lm, name="one", seed=1), make_probe(lm, name="two", seed=2)
    upper, lower = Constraint(one, Bounds(upper=0.3)), Constraint(two, Bounds(lower=0.6))
    sham = replace(upper, controller="random")
    plans = [
        Plan((upper,)),
        Plan((upper, lower)),
        Plan((sham,)),
        Plan((sham, replace(lower, controller="random"))),
        Plan((upper, lower), mode="monitor"),
        None,
    ]
    rows = [
        Request(f"row {at} {'z' * at}", Sampling(max_tokens=12, temperature=0), plan) for at, plan in enumerate(plans)
    ]
    together = generate(lm, rows)
    for row, answer in zip(rows, together, strict=True):
        (alone,) = generate(lm, [row])
        assert answer.token_ids == alone.token_ids
        for name, report in (answer.steering.probes if answer.steering else {}).items():
            assert report.edited == alone.steering.probes[name].edited
            assert report.mean_dose == pytest.approx(alone.steering.probes[name].mean_dose, rel=1e-4)


def test_stopping_ends_what_runs_and_what_waits_within_a_step(lm):
    engine = Engine(lm, max_batch=1)
    answers = [engine.submit(request(max_tokens=200, ignore_eos=True)) for _ in range(3)]
    engine.stop()
    for answer in answers:
        with pytest.raises(EngineUnavailable):
            answer.result(WAIT)
    engine.close()
    assert not engine.alive
    assert engine.failure is None
