"""A scored text reads as generation read it: the same stream, the same edits, and nothing left on the model."""

from __future__ import annotations

import pytest
import torch

from steering import Constraint, Engine, Plan, Request, Sampling, generate
from steering.bounds import Bounds
from steering.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest
from steering.hooks import capture
from steering.scoring import Scoring, score

PROMPT = list(b"It was a dark night")


def steered(probe, **settings):
    return Plan((Constraint(probe, Bounds(upper=0.05), **settings),))


def told(lm, plan):
    """A completion's token ids, and what generation reported by token: offset -> highest probability before, after."""
    sampling = Sampling(max_tokens=12, temperature=0)
    done = generate(lm, [Request(tuple(PROMPT), sampling, plan, token_scores=True)])[0]
    (name,) = done.steering.probes
    return done.token_ids, {entry["offset"]: entry["probes"][name] for entry in done.steering.tokens}


@pytest.mark.parametrize("which", ["lm", "mamba_lm"])
@pytest.mark.parametrize("prompt", ["last", "all"])
def test_a_steered_text_reads_as_generation_reported_it_token_by_token(which, prompt, make_probe, request):
    lm = request.getfixturevalue(which)
    probe = make_probe(lm)
    plan = steered(probe, prompt=prompt)
    written, reported = told(lm, plan)
    read = score(lm, PROMPT, written, probe=probe, plan=plan)
    highest = {
        offset: [float(before.max()), float(after.max())]
        for offset, before, after in zip(read.offsets, read.before, read.after, strict=True)
    }
    assert len(reported) >= 10
    for offset, pair in reported.items():
        assert highest[offset] == pytest.approx(pair, abs=1e-5)
    assert read.steering.probes[probe.id].violations == 0
    assert float(read.after[read.offsets.index(-1) :].max()) <= 0.05


def test_without_a_plan_both_are_what_the_bare_model_shows(lm, make_probe):
    probe = make_probe(lm, layers=[1, 3])
    with capture(lm.model, [1, 3]) as seen, torch.inference_mode():
        lm.model(torch.tensor([PROMPT]))
    read = score(lm, PROMPT, probe=probe)
    for column, layer in enumerate(read.layers):
        expected = probe.at(layer).probability(seen[layer][0]).double()
        torch.testing.assert_close(read.after[:, column], expected, atol=1e-6, rtol=0)
    assert torch.equal(read.before, read.after)
    assert read.steering is None


def test_chunks_read_the_same_as_one_pass(lm, make_probe):
    probe = make_probe(lm)
    whole = score(lm, PROMPT, PROMPT, probe=probe, plan=steered(probe, prompt="all"))
    work = Scoring(lm, PROMPT, PROMPT, probe=probe, plan=steered(probe, prompt="all"), chunk_tokens=5)
    steps = 1
    while work.step():
        steps += 1
    assert steps == 8
    torch.testing.assert_close(work.result().before, whole.before, atol=1e-5, rtol=0)
    torch.testing.assert_close(work.result().after, whole.after, atol=1e-5, rtol=0)


def test_a_probe_that_is_not_steered_is_read_on_the_stream_others_have_edited(lm, make_probe):
    held, watched = make_probe(lm), make_probe(lm, name="sentiment", seed=6)
    free = score(lm, PROMPT, probe=watched)
    read = score(lm, PROMPT, probe=watched, plan=steered(held, prompt="all"))
    assert float((read.after - free.after).abs().max()) > 0.01


def test_no_hook_is_left_and_an_empty_prompt_is_refused(lm, make_probe):
    hooks = [len(module._forward_hooks) for module in lm.model.modules()]
    score(lm, PROMPT, probe=make_probe(lm), plan=steered(make_probe(lm)))
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks
    with pytest.raises(InvalidRequest, match="no token ids"):
        score(lm, [], PROMPT, probe=make_probe(lm))


def test_rows_that_are_written_meanwhile_are_as_they_are_alone(lm, make_probe):
    probe = make_probe(lm)
    rows = [Request(tuple(PROMPT[at:]), Sampling(max_tokens=24, temperature=0), steered(probe)) for at in range(4)]
    alone = generate(lm, rows)
    expected = score(lm, PROMPT, PROMPT, probe=probe, plan=steered(probe, prompt="all"))
    with Engine(lm, slots=4, row_tokens=128) as engine:
        answers = [engine.submit(row) for row in rows]
        scores = [
            engine.beside(Scoring(lm, PROMPT, PROMPT, probe=probe, plan=steered(probe, prompt="all"), chunk_tokens=3))
            for _ in range(6)
        ]
        assert [answer.result(30).token_ids for answer in answers] == [row.token_ids for row in alone]
        for one in scores:
            torch.testing.assert_close(one.result(30).after, expected.after, atol=1e-5, rtol=0)


def test_work_that_fails_is_late_or_is_cancelled_ends_alone(lm, make_probe, monkeypatch):
    probe = make_probe(lm)

    class Broken:
        def step(self):
            raise ValueError("broken")

    with Engine(lm, slots=2, row_tokens=64) as engine:
        assert isinstance(engine.beside(Broken()).exception(10), ValueError)
        assert isinstance(engine.beside(Scoring(lm, PROMPT, probe=probe), seconds=-1).exception(10), DeadlineExceeded)
        monkeypatch.setattr("steering.engine.aside.Aside.step", lambda self: None)
        waiting = [engine.beside(Scoring(lm, PROMPT, probe=probe)) for _ in range(16)]
        with pytest.raises(EngineUnavailable, match="try later"):
            engine.beside(Scoring(lm, PROMPT, probe=probe))
        monkeypatch.undo()
        assert waiting[15].cancel()
        assert engine.submit(Request("still here", Sampling(max_tokens=2))).result(10).token_ids
        assert len(waiting[14].result(10).offsets) == len(PROMPT)


def test_an_engine_that_stops_tells_what_waits(lm, make_probe, monkeypatch):
    monkeypatch.setattr("steering.engine.aside.Aside.step", lambda self: None)
    engine = Engine(lm, slots=2, row_tokens=64)
    answer = engine.beside(Scoring(lm, PROMPT, probe=make_probe(lm)))
    engine.stop()
    assert isinstance(answer.exception(10), EngineUnavailable)
    engine.close()
    with pytest.raises(EngineUnavailable, match="takes no requests"):
        engine.beside(Scoring(lm, PROMPT, probe=make_probe(lm)))
