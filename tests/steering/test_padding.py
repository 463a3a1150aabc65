"""Left padding does not exist for a row: alone or beside a much longer prompt it reads, remembers and writes the same.

Attention masks padding out. Recurrent blocks have no mask in their recurrence, so for them the convolution and
recurrent states themselves are compared, and the negative control shows that they do differ when no mask is given.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import DynamicCache

from steering import Bounds, Constraint, Plan, Request, Sampling, generate, steer
from steering.architectures import ARCHITECTURES, state_kind
from steering.generation import prompt_offsets
from steering.rows import RowSteering
from steering.stepping import Stepper, cache_name, left_pad

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
LONG = [(31 * i + 7) % 256 for i in range(23)]
SHORT = ([250], [9, 1], [5, 200, 17, 3, 11])
NEW = [17, 3, 88, 120]
REMEMBERING = sorted(name for name, (_, kind) in ARCHITECTURES.items() if kind != "attention")


def constraint(lm, make_probe, **changes):
    settings = {"bounds": Bounds(upper=-0.5, space="logit"), "prompt": "all"} | changes
    return Constraint(make_probe(lm, seed=1), **settings)


@torch.inference_mode()
def run(lm, rows, plans):
    """Logits of every row after the prompt and after each of NEW, (1 + new, batch, vocab), and the Stepper."""
    stepper = Stepper(lm.model)
    steering = RowSteering(plans, hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype)
    ids, mask = left_pad(rows, pad_token_id=256, device=lm.device)
    with steer(lm.model, steering.controllers()):
        steering.begin(prompt_offsets(mask))
        logits = [stepper.prefill(ids, mask)]
        for offset, token in enumerate(NEW):
            steering.begin(torch.full((len(rows), 1), offset))
            logits.append(stepper.step(torch.full((len(rows),), token)))
    return torch.stack(logits), stepper._cache


def states(cache, row):
    """Every convolution and recurrent state of one row, flat."""
    held = [getattr(layer, name, {}) for layer in cache.layers for name in ("conv_states", "recurrent_states")]
    return [state[row] for by_index in held for state in by_index.values() if state is not None]


@pytest.mark.parametrize("steered", [False, True], ids=["plain", "steered"])
def test_logits_and_states_are_the_same_alone_and_padded(any_lm, make_probe, steered):
    rows = [LONG, *SHORT]
    plan = Plan((constraint(any_lm, make_probe),)) if steered else None
    together, padded = run(any_lm, rows, [plan] * len(rows))
    for at, row in enumerate(rows):
        alone, own = run(any_lm, [row], [plan])
        torch.testing.assert_close(together[:, at], alone[:, 0], **TOLERANCE)
        torch.testing.assert_close(states(padded, at), states(own, 0), **TOLERANCE)
    assert bool(states(padded, 0)) == (state_kind(any_lm.model) != "attention")


@pytest.mark.parametrize("model_type", REMEMBERING)
@torch.inference_mode()
def test_without_a_mask_padding_does_leak_into_recurrent_states(any_lm, received):
    """The control: the comparison above can fail."""
    name = cache_name(any_lm.model)
    row = SHORT[-1]
    ids, _ = left_pad([row, LONG], pad_token_id=256, device=any_lm.device)
    leaking, clean = (DynamicCache(config=any_lm.model.config) for _ in range(2))
    any_lm.model(input_ids=ids, use_cache=True, **{name: leaking})
    any_lm.model(input_ids=torch.tensor([row]), use_cache=True, **{name: clean})
    pairs = list(zip(states(leaking, 0), states(clean, 0), strict=True))
    assert not all(torch.allclose(padded, alone, **TOLERANCE) for padded, alone in pairs)


@pytest.mark.parametrize("steered", [False, True], ids=["plain", "steered"])
def test_greedy_tokens_are_the_same_alone_and_padded(any_lm, make_probe, steered):
    plan = Plan((constraint(any_lm, make_probe),)) if steered else None
    sampling = Sampling(max_tokens=8, temperature=0, ignore_eos=True)
    requests = [Request(tuple(row), sampling, plan) for row in (LONG, *SHORT)]
    together = generate(any_lm, requests)
    for request, done in zip(requests, together, strict=True):
        assert generate(any_lm, [request])[0].token_ids == done.token_ids


def test_every_row_of_a_mixed_batch_gets_what_it_gets_alone(any_lm, make_probe):
    """Different plans, policies, temperatures, nuclei, seeds and lengths; the reports agree too."""
    slabs = constraint(any_lm, make_probe)
    last = constraint(any_lm, make_probe, bounds=Bounds(lower=0.8), prompt="last", layers=(1, 2))
    placebo = constraint(any_lm, make_probe, controller="random", generation=(1, 3))
    requests = [
        Request(tuple(LONG), Sampling(max_tokens=9, temperature=0.7, seed=1), Plan((slabs,))),
        Request(tuple(SHORT[0]), Sampling(max_tokens=9, top_p=0.8, seed=2), None),
        Request(tuple(SHORT[1]), Sampling(max_tokens=3, top_k=20, seed=3), Plan((last,))),
        Request(tuple(SHORT[2]), Sampling(max_tokens=9, temperature=1.5, seed=4), Plan((placebo,))),
        Request(tuple(SHORT[2]), Sampling(max_tokens=9, temperature=0), Plan((slabs,), mode="monitor")),
    ]
    together = generate(any_lm, requests)
    for request, done in zip(requests, together, strict=True):
        (alone,) = generate(any_lm, [request])
        assert alone.token_ids == done.token_ids
        assert alone.finish_reason == done.finish_reason
        if request.plan is None:
            assert done.steering is None
            continue
        (mine,), (batched,) = alone.steering.probes.values(), done.steering.probes.values()
        assert (mine.tokens, mine.edited, mine.violations) == (batched.tokens, batched.edited, batched.violations)
        assert mine.max_pre == pytest.approx(batched.max_pre, abs=1e-4)
        assert mine.mean_dose == pytest.approx(batched.mean_dose, abs=1e-4)
    assert all(first.token_ids != second.token_ids for first, second in pairwise(together))
