"""The same promises on the embedded model: 30 layers, 576 wide, a stream with outliers. All slow."""

from __future__ import annotations

import copy

import pytest
import torch

from steering import Bounds, Constraint, Plan, Request, Sampling, generate, wrap
from steering.selftest import self_test

pytestmark = pytest.mark.slow

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village at the foot of a mountain, there lived a baker who",
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bound_holds_at_all_thirty_layers(embedded, make_probe, received, dtype):
    model = embedded.model if dtype == torch.float32 else copy.deepcopy(embedded.model).to(dtype)
    lm = wrap(model, embedded.tokenizer, model_id="embedded")
    assert self_test(lm).violations == 0
    probe = make_probe(lm, seed=3)
    plan = Plan((Constraint(probe, Bounds(upper=-0.5, space="logit"), prompt="all"),))
    with received(lm.model) as stored:
        done = generate(lm, [Request(text, Sampling(max_tokens=6, temperature=0), plan) for text in PROMPTS])
    for row, completion in enumerate(done):
        report = completion.steering.probes[probe.id]
        assert (report.violations, report.capped) == (0, 0)
        assert report.edited > 0
        for layer in range(30):
            fitted = probe.at(layer)
            prompt = stored[layer][0][row, -completion.prompt_tokens :]
            resid = torch.cat([prompt, *(step[row] for step in stored[layer][1 : len(completion.token_ids)])])
            assert float((resid.double() @ fitted.weight.double() + fitted.bias).max()) <= -0.5, layer


def test_greedy_text_is_that_of_transformers_and_the_same_in_any_batch(embedded, make_probe):
    sampling = Sampling(max_tokens=16, temperature=0)
    plan = Plan((Constraint(make_probe(embedded), Bounds(upper=0.0, space="logit"), layers=(10, 20)),))
    rows = [Request(PROMPTS[0], sampling), Request(PROMPTS[1], sampling), Request(PROMPTS[0], sampling, plan)]
    together = generate(embedded, rows)
    for request, done in zip(rows, together, strict=True):
        assert generate(embedded, [request])[0].token_ids == done.token_ids
    ids = embedded.tokenizer(PROMPTS[0], return_tensors="pt")
    theirs = embedded.model.generate(**ids, max_new_tokens=16, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert together[0].token_ids == theirs.tolist()
    assert "Paris" in together[0].text
