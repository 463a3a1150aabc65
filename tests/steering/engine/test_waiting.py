"""Who is next: first come, first served, in two classes, within a budget, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steering import Request, Sampling
from steering.engine.job import Job
from steering.engine.waiting import Room, Waiting
from steering.errors import DeadlineExceeded, EngineUnavailable

CHUNK = 8


@dataclass(eq=False)
class Caller:
    """As much of a job as waits."""

    size: int
    new: int = 4
    priority: str = "live"
    number: int = 0
    prompt: Any = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = range(self.size)

    @property
    def tokens(self) -> int:
        return self.size + self.new

    @property
    def long(self) -> bool:
        return self.size > CHUNK


def queue(*callers, most=100):
    waiting = Waiting(most)
    for number, caller in enumerate(callers):
        caller.number = number
        waiting.push(caller)
    return waiting


def room(**changes):
    return Room(**{"slots": 4, "tokens": 1000, "area": 4 * CHUNK, "chunk": CHUNK, "long": True} | changes)


def numbers(admitted):
    short, long = admitted
    return [caller.number for caller in short], long and long.number


def test_the_first_that_came_are_the_first_to_go_as_far_as_there_are_slots():
    waiting = queue(*(Caller(3) for _ in range(6)))
    assert numbers(waiting.admit(room())) == ([0, 1, 2, 3], None)
    assert numbers(waiting.admit(room(slots=0))) == ([], None)
    assert numbers(waiting.admit(room())) == ([4, 5], None)
    assert len(waiting) == 0


def test_nobody_passes_one_that_does_not_fit_yet_for_being_smaller():
    waiting = queue(Caller(3, new=50), Caller(1), Caller(1))
    assert numbers(waiting.admit(room(tokens=52))) == ([], None)
    assert numbers(waiting.admit(room(tokens=53))) == ([0], None)


def test_a_pass_reads_no_more_than_its_area_with_the_padding_counted():
    waiting = queue(Caller(2), Caller(7), Caller(7), Caller(1))
    assert numbers(waiting.admit(room(area=14))) == ([0, 1], None)
    assert numbers(waiting.admit(room(area=14))) == ([2, 3], None)


def test_background_goes_only_when_nothing_live_waits():
    waiting = queue(Caller(3, priority="background"), Caller(3), Caller(3), Caller(3, priority="background"))
    assert numbers(waiting.admit(room(slots=1))) == ([1], None)
    assert numbers(waiting.admit(room(slots=1))) == ([2], None)
    assert numbers(waiting.admit(room())) == ([0, 3], None)


def test_background_does_not_pass_a_live_one_that_waits_for_room_or_for_the_long_lane():
    for blocked, space in ((Caller(3, new=500), room(tokens=100)), (Caller(20), room(long=False))):
        waiting = queue(blocked, Caller(1, priority="background"))
        assert numbers(waiting.admit(space)) == ([], None)


def test_short_ones_pass_a_long_one_only_while_another_long_one_is_read():
    waiting = queue(Caller(20), Caller(20), Caller(2), Caller(20), Caller(2))
    assert numbers(waiting.admit(room(slots=2))) == ([2], 0)
    assert numbers(waiting.admit(room(long=False))) == ([4], None)
    waiting.push(Caller(2, number=9))
    assert numbers(waiting.admit(room(tokens=23))) == ([], None), "the long one is next, and no short one passes"
    assert numbers(waiting.admit(room())) == ([9], 1)
    assert numbers(waiting.admit(room())) == ([], 3)


def test_a_full_queue_refuses_and_says_when_to_come_again():
    waiting = queue(Caller(1), Caller(1, priority="background"), most=2)
    with pytest.raises(EngineUnavailable, match="2 requests are waiting") as refused:
        waiting.push(Caller(1))
    assert refused.value.retry_after > 0
    waiting.admit(room())
    waiting.push(Caller(1))


def test_those_nobody_waits_for_are_swept_and_the_expired_are_told(lm):
    waiting = Waiting(10)
    jobs = [
        Job.of(lm, Request("abc", Sampling(max_tokens=2)), [1, 2, 3], priority=priority, listener=None)
        for priority in ("live", "live", "live", "background", "background")
    ]
    for job in jobs:
        waiting.push(job)
    jobs[1].answer.cancel()
    jobs[2].deadline = jobs[4].deadline = time.monotonic() - 1
    waiting.sweep()
    assert waiting.drain() == [jobs[0], jobs[3]]
    for job in (jobs[2], jobs[4]):
        with pytest.raises(DeadlineExceeded, match="ask for fewer tokens, or give it more time"):
            job.answer.result(0)
    assert not jobs[0].answer.done()


def test_whoever_waits_for_a_job_is_woken_by_one_and_by_a_call():
    waiting = Waiting(10)
    for act in (lambda: waiting.push(Caller(1)), waiting.wake):
        sleeper = threading.Thread(target=waiting.wait, daemon=True)
        sleeper.start()
        sleeper.join(0.05)
        assert sleeper.is_alive()
        act()
        sleeper.join(10)
        assert not sleeper.is_alive()
        waiting.admit(room())


def test_once_everybody_was_sent_home_nobody_is_let_in():
    waiting = queue(Caller(1), Caller(2))
    assert [caller.size for caller in waiting.drain()] == [1, 2]
    assert not waiting.push(Caller(3))
    assert len(waiting) == 0


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 3),  # turns since the one before
        st.integers(1, 30),
        st.integers(1, 20),
        st.sampled_from(["live", "live", "background"]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(arrivals=ARRIVALS, slots=st.integers(1, 4), budget=st.integers(50, 120))
def test_under_any_arrivals_everyone_goes_in_order_and_the_budget_holds(arrivals, slots, budget):
    """A model of the engine: rows keep their slot and tokens for as many turns as they write."""
    waiting, coming, number, turn = Waiting(1000), [], 0, 0
    for pause, size, new, priority in arrivals:
        turn += pause
        coming.append((turn, Caller(size, new, priority, number)))
        number += 1
    running, reading, gone = {}, None, []
    for turn in range(5000):
        while coming and coming[0][0] <= turn:
            waiting.push(coming.pop(0)[1])
        if not coming and not running and reading is None and not len(waiting):
            break
        held = sum(caller.tokens for caller in [*running, *([reading[0]] if reading else [])])
        before = [caller for jobs in waiting._queues.values() for caller in jobs]
        space = Room(slots - len(running) - (reading is not None), budget - held, CHUNK, CHUNK, reading is None)
        short, long = waiting.admit(space)
        admitted = [*short, *([long] if long else [])]
        rest = [caller for caller in before if caller not in admitted]
        for caller in admitted:
            passed = [other for other in rest if other.number < caller.number and other.priority == caller.priority]
            assert not passed or (all(other.long for other in passed) and (reading or long) and not caller.long)
            assert caller.priority == "live" or all(other.priority == "background" for other in rest)
        running |= dict.fromkeys(short, 1)
        running = {caller: age + 1 for caller, age in running.items() if age < caller.new}
        if reading and reading[1] * CHUNK >= reading[0].size:
            running[reading[0]], reading = 1, None
        elif reading:
            reading = reading[0], reading[1] + 1
        reading = (long, 1) if long else reading
        gone += admitted
        assert len(running) + (reading is not None) <= slots
        assert sum(caller.tokens for caller in running) + (reading[0].tokens if reading else 0) <= budget
    assert len(gone) == number, "somebody waits for ever"
    for priority in ("live", "background"):
        for kind in (True, False):
            order = [caller.number for caller in gone if caller.priority == priority and caller.long == kind]
            assert order == sorted(order)
