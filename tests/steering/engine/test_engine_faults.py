"""A prompt there is no memory for ends alone; any other failure ends the engine, and everybody is told at once."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache

from steering import Bounds, Constraint, Plan, Request, Sampling, generate
from steering.engine.runner import Runner
from steering.engine.slots import SlotCache
from steering.errors import (
    EngineUnavailable,
    NotEnoughMemory,
    SteeringNotApplied,
    UnsupportedModel,
)

WAIT = 20
CHUNK = 16
GREEDY = Sampling(max_tokens=8, temperature=0, ignore_eos=True)


def row(tokens=5, plan=None, *, seed=0, **asked):
    ids = [(seed + 7 * at * at) % 76 for at in range(tokens)]
    return Request(tuple(ids), GREEDY, plan, **asked)


def failing_after(engine, monkeypatch, error, *, passes=0, when=lambda rows, offsets: True):
    """Let `engine` fail in each pass that `when` names, after so many of them."""
    real, seen = engine._runner.read, []

    def read(first, rows, lengths, offsets, *, whole):
        if when(rows, offsets):
            seen.append(rows)
            if len(seen) > passes:
                raise error
        return real(first, rows, lengths, offsets, whole=whole)

    monkeypatch.setattr(engine._runner, "read", read)


def decoding(rows, offsets):
    return offsets[0] >= 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("not enough memory: 9")])
def test_without_memory_for_one_prompt_only_that_one_ends(lm, error, by_hand, as_alone, monkeypatch, make_probe):
    engine = by_hand(lm, slots=6)
    failing_after(engine, monkeypatch, error, when=lambda rows, offsets: any(len(tokens) == 11 for tokens in rows))
    plan = Plan((Constraint(make_probe(lm), Bounds(upper=0.3), prompt="all"),))
    requests = [row(size, plan if size % 2 else None, seed=size) for size in (3, 4, 11, 5, 6)]
    answers = [engine.submit(request) for request in requests]
    engine.finish()
    with pytest.raises(NotEnoughMemory, match="no memory left to read this prompt") as told:
        answers.pop(2).result(0)
    assert told.value.retry_after > 0
    requests.pop(2)
    as_alone(lm, requests, [answer.result(0) for answer in answers])
    assert engine.failure is None


def test_without_memory_for_a_long_prompt_only_that_one_ends(lm, by_hand, as_alone, monkeypatch):
    engine = by_hand(lm, slots=3, chunk_tokens=CHUNK)
    writes, lost, comes = row(5), row(4 * CHUNK, seed=1), row(3 * CHUNK, seed=2)
    reading = lambda rows, offsets: offsets[0] < 0 and len(rows[0]) == CHUNK  # noqa: E731
    failing_after(engine, monkeypatch, MemoryError(), passes=1, when=reading)
    answers = [engine.submit(request) for request in (writes, lost)]
    engine.turn(4)
    with pytest.raises(NotEnoughMemory):
        answers[1].result(0)
    monkeypatch.undo()
    last = engine.submit(comes)
    engine.finish()
    as_alone(lm, [writes, comes], [answers[0].result(0), last.result(0)])


@pytest.mark.parametrize("error", [RuntimeError("device lost"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_failing_step_ends_the_engine_and_everybody_is_told(lm, error, by_hand, monkeypatch):
    engine = by_hand(lm, slots=2, chunk_tokens=CHUNK)
    answers = [engine.submit(row(size, seed=size)) for size in (5, 4 * CHUNK, 6, 7)]
    engine.turn(2)
    assert (engine.running, engine.waiting) == (2, 2)
    failing_after(engine, monkeypatch, error, when=decoding)
    engine.release()
    for answer in answers:
        with pytest.raises(EngineUnavailable, match="failed while it ran this request"):
            answer.result(WAIT)
    engine._thread.join(WAIT)
    assert engine.failure is error
    assert not engine.alive
    with pytest.raises(EngineUnavailable, match=rf"failed \({type(error).__name__}\)") as refused:
        engine.submit(row())
    assert refused.value.retry_after is None
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(WAIT)
    assert not closing.is_alive()


@pytest.mark.parametrize("sizes", [(3, 4, 5), (4 * CHUNK, 3), (3,)], ids=str)
def test_a_failure_while_prompts_are_read_ends_the_engine_and_everybody_is_told(lm, sizes, by_hand, monkeypatch):
    engine = by_hand(lm, slots=4, chunk_tokens=CHUNK)
    writes = engine.submit(row(5))
    engine.turn(2)
    answers = [writes, *(engine.submit(row(size, seed=size)) for size in sizes)]
    failing_after(engine, monkeypatch, RuntimeError("device lost"), when=lambda rows, offsets: offsets[0] < 0)
    engine.release()
    for answer in answers:
        with pytest.raises(EngineUnavailable):
            answer.result(WAIT)


def test_a_failure_after_memory_ran_out_forgets_nobody(lm, by_hand, monkeypatch):
    """Three prompts do not fit at once, are read one by one, and the second pass of these fails for another reason."""
    engine, errors = by_hand(lm, slots=4), iter([MemoryError(), None, RuntimeError("device lost")])
    real = engine._runner.read

    def read(*args, **options):
        error = next(errors)
        if error is not None:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(engine._runner, "read", read)
    answers = [engine.submit(row(3 + at, seed=at)) for at in range(3)]
    engine.release()
    for answer in answers:
        with pytest.raises(EngineUnavailable):
            answer.result(WAIT)


def test_a_failure_between_two_passes_forgets_nobody(lm, by_hand, monkeypatch):
    engine = by_hand(lm, slots=4)

    def fail(*args):
        raise RuntimeError("in our own code, say")

    monkeypatch.setattr("steering.writing.Writing.read_prompt", fail)
    answers = [engine.submit(row(3 + at, logprobs=0, echo=True)) for at in range(3)]
    engine.release()
    for answer in answers:
        with pytest.raises(EngineUnavailable):
            answer.result(WAIT)


def test_a_prompt_read_without_its_hooks_is_an_error_and_never_a_text(lm, make_probe, by_hand, as_alone, monkeypatch):
    engine = by_hand(lm, slots=4, chunk_tokens=CHUNK)
    one, two = (Constraint(make_probe(lm, name=name), Bounds(upper=0.3)) for name in ("one", "two"))
    plans = [Plan((one,)), Plan((one, two)), None]
    monkeypatch.setattr("steering.engine.runner.steer", lambda model, controllers: nullcontext())
    answers = [engine.submit(row(5, plan)) for plan in plans]
    long = engine.submit(row(2 * CHUNK, plans[0]))
    engine.finish()
    for answer in (*answers[:2], long):
        with pytest.raises(SteeringNotApplied, match="ran without its controllers"):
            answer.result(0)
    as_alone(lm, [row(5)], [answers[2].result(0)])


def test_a_step_taken_without_its_hooks_ends_the_engine(lm, make_probe, by_hand, monkeypatch):
    engine = by_hand(lm, slots=4)
    plan = Plan((Constraint(make_probe(lm), Bounds(upper=0.3)),))
    answers = [engine.submit(row(5, plan)), engine.submit(row(5))]
    engine.turn(2)
    monkeypatch.setattr("steering.engine.runner.steer", lambda model, controllers: nullcontext())
    engine.release()
    for answer in answers:
        with pytest.raises(EngineUnavailable):
            answer.result(WAIT)
    assert isinstance(engine.failure, SteeringNotApplied)


def test_an_attention_the_engine_does_not_know_is_refused_before_it_serves(lm, monkeypatch):
    monkeypatch.setattr(lm.model.config, "_attn_implementation", "flex_attention")
    with pytest.raises(UnsupportedModel, match=r"'flex_attention'.*sdpa and eager"):
        Runner(lm, slots=2, row_tokens=32)


def test_a_cache_the_engine_does_not_know_is_refused_before_it_serves(lm):
    like = DynamicCache(config=lm.model.config)
    like.layers[0] = object()
    with pytest.raises(UnsupportedModel, match="type object is neither attention nor recurrent"):
        SlotCache(like, slots=2, row_tokens=32)


def test_the_model_is_left_as_it_was(lm, by_hand, make_probe):
    """After a failure too: `generate` and an engine made later are not touched by it."""
    before = sum(len(module._forward_hooks) for module in lm.model.modules())
    (alone,) = generate(lm, [row()])
    engine = by_hand(lm, slots=2)
    engine.submit(row(5, Plan((Constraint(make_probe(lm), Bounds(upper=0.3)),))))
    engine.turn()
    with lm.model.lm_head.register_forward_hook(lambda *args: (_ for _ in ()).throw(OSError("in the model"))):
        engine.release()
        engine._thread.join(WAIT)
    assert isinstance(engine.failure, OSError)
    assert sum(len(module._forward_hooks) for module in lm.model.modules()) == before
    assert lm.model.config._attn_implementation == "sdpa"
    assert generate(lm, [row()])[0].token_ids == alone.token_ids
