"""Arms are written and measured as the plain loop and plain torch would do it."""

from __future__ import annotations

import itertools

import pytest
import torch

from probes.screen.divergence import Divergence
from probes.screen.nucleus import draw
from probes.screen.question import LEAD, TOP_P, Arm
from probes.screen.writing import Writer
from steering import Bounds, Request, Sampling, generate

ARMS = [Arm("unsteered"), Arm("steered", (2,)), Arm("steered", (0, 1, 2)), Arm("placebo", (1, 2))]


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_an_arm_writes_what_generate_writes_with_the_same_draws(arm, ask, planted_probe, monkeypatch):
    question = ask(planted_probe, prompts=24, batch=9)
    rows = range(len(question.prompts))

    steps = itertools.count()

    def drawing(choosers, logits):
        """In place of `choose` of `generate`, which goes step by step through the whole batch."""
        return draw(logits, rows=rows, step=next(steps), seed=question.seed, top_p=TOP_P).tolist()

    monkeypatch.setattr("steering.generation.choose", drawing)
    requests = [
        Request(prompt, Sampling(max_tokens=question.new_tokens), question.plan(arm, row))
        for row, prompt in enumerate(question.prompts)
    ]
    expected = [
        question.lm.tokenizer.decode(done.token_ids, skip_special_tokens=True)
        for done in generate(question.lm, requests)
    ]
    assert Writer(question).write(arm) == expected


def test_an_arm_can_be_written_twice_from_the_same_caches(ask, planted_probe):
    writer = Writer(ask(planted_probe, prompts=10))
    first = writer.write(ARMS[2])
    assert writer.write(ARMS[0]) != first
    assert writer.write(ARMS[2]) == first


def test_the_divergence_is_that_of_two_plain_forward_passes(ask, planted_probe):
    """The projection is written out here, in a hook of torch, at the last prompt token and every later one."""
    question = ask(planted_probe, Bounds(lower=8.0, space="logit"), neutral=5)
    model, probe = question.lm.model, planted_probe.layers[1]
    ids = torch.tensor(question.neutral)

    def project(module, args, output):
        resid = output[0] if isinstance(output, tuple) else output
        short = (8.0 - resid @ probe.weight).clamp_min(0.0)  # the weight has length 1, the bias is 0
        short[:, : LEAD - 1] = 0.0
        moved = resid + short.unsqueeze(-1) * probe.weight
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    with torch.no_grad():
        plain = model(ids).logits.double().log_softmax(-1)
        handle = model.model.layers[1].register_forward_hook(project)
        try:
            steered = model(ids).logits.double().log_softmax(-1)
        finally:
            handle.remove()
    pointwise = torch.nn.functional.kl_div(steered, plain, reduction="none", log_target=True).sum(-1)
    expected = pointwise[:, LEAD - 1 :].mean(-1)
    assert expected.min() > 1e-3
    assert pointwise[:, : LEAD - 1].abs().max() == 0
    assert Divergence(question).of(Arm("steered", (1,))) == pytest.approx(expected.tolist(), rel=1e-4)


def test_bounds_that_hold_already_cost_nothing(ask, planted_probe):
    question = ask(planted_probe, Bounds(lower=-1e4, space="logit"))
    divergence = Divergence(question)
    assert divergence.of(Arm("steered", (0, 1, 2))) == [0.0] * 6
    assert divergence.of(Arm("placebo", (0, 1, 2))) == [0.0] * 6
