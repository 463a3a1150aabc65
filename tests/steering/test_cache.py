"""Cached decoding equals one full forward pass under the same token policy, for every architecture.

The judge is a plain model call without cache or mask: one row, all tokens, the policy announced for all at once.
"""

from __future__ import annotations

import random

import pytest
import torch

from steering import Bounds, Constraint, Plan, Request, Sampling, generate, steer
from steering.rows import RowSteering
from steering.stepping import Stepper, left_pad

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
"""float32: logits of these models are of the order 1 to 10."""
PROMPT = [7, 30, 2, 99, 254, 11, 30, 64, 5, 200]
NEW = [17, 3, 88, 88, 120, 6, 41, 9]


def compiled(lm, plan):
    return RowSteering([plan], hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype)


@torch.inference_mode()
def cached(lm, plan, tokens):
    """Logits after the prompt and after each of `tokens`, (1 + new, vocab): one step at a time through the cache."""
    steering, stepper = compiled(lm, plan), Stepper(lm.model)
    ids, mask = left_pad([PROMPT], pad_token_id=0, device=lm.device)
    with steer(lm.model, steering.controllers()):
        steering.begin(torch.arange(-len(PROMPT), 0).unsqueeze(0))
        rows = [stepper.prefill(ids, mask)]
        for offset, token in enumerate(tokens):
            steering.begin(torch.tensor([[offset]]))
            rows.append(stepper.step(torch.tensor([token])))
    return torch.cat(rows)


@torch.inference_mode()
def full(lm, plan, tokens):
    """The same logits from one forward pass."""
    steering = compiled(lm, plan)
    steering.begin(torch.arange(-len(PROMPT), len(tokens)).unsqueeze(0))
    with steer(lm.model, steering.controllers()):
        logits = lm.model(input_ids=torch.tensor([[*PROMPT, *tokens]]), use_cache=False).logits
    return logits[0, len(PROMPT) - 1 :].float()


def policies(make_probe, lm, *, count):
    """Random token policies, layers and bounds, the same for every architecture."""
    drawn = random.Random(5)
    for seed in range(count):
        start = drawn.randrange(0, 4)
        yield Plan((
            Constraint(
                make_probe(lm, seed=seed),
                Bounds(upper=drawn.uniform(-1.5, 0), space="logit"),
                layers=tuple(drawn.sample(range(4), drawn.randint(1, 4))),
                prompt=drawn.choice(["none", "last", "all"]),
                generation=(start, drawn.choice([None, start + 1, start + 3])),
            ),
        ))  # fmt: skip


def test_the_cache_gives_the_logits_of_a_full_pass_under_random_policies(any_lm, make_probe):
    plain, changed = full(any_lm, None, NEW), 0
    torch.testing.assert_close(cached(any_lm, None, NEW), plain, **TOLERANCE)
    for plan in policies(make_probe, any_lm, count=6):
        expected = full(any_lm, plan, NEW)
        torch.testing.assert_close(cached(any_lm, plan, NEW), expected, **TOLERANCE)
        changed += not torch.allclose(expected, plain, rtol=1e-2, atol=1e-2)
    assert changed >= 4, "policies that change nothing prove nothing"


@pytest.mark.parametrize("prompt", ["none", "last", "all"])
def test_the_tokens_of_generate_are_those_of_a_full_pass(any_lm, make_probe, prompt):
    plan = Plan((Constraint(make_probe(any_lm, seed=1), Bounds(upper=-1.0, space="logit"), prompt=prompt),))
    sampling = Sampling(max_tokens=8, temperature=0, ignore_eos=True)
    (done,) = generate(any_lm, [Request(tuple(PROMPT), sampling, plan)])
    assert full(any_lm, plan, done.token_ids)[:-1].argmax(-1).tolist() == done.token_ids


def test_the_policy_decides_which_logits_change(any_lm, make_probe):
    """Tokens are steered when they are read: offset 2 shapes the logits after it and none before."""
    probe, plain = make_probe(any_lm, seed=1), cached(any_lm, None, NEW)
    for prompt, generation, first in (("none", (2, 3), 3), ("last", (0, 0), 0), ("none", (0, None), 1)):
        constraint = Constraint(probe, Bounds(upper=-3.0, space="logit"), prompt=prompt, generation=generation)
        steered = cached(any_lm, Plan((constraint,)), NEW)
        assert torch.equal(steered[:first], plain[:first])
        assert not torch.allclose(steered[first], plain[first], atol=1e-3)
        if generation != (0, None):  # what was edited stays in the cache
            assert not torch.allclose(steered[first + 1], plain[first + 1], atol=1e-4)
