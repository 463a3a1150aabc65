"""The same theorem on the embedded model with the shipped probes: rows in company are as alone, to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steering import Bounds, Constraint, Plan, ProbeStore, Request, Sampling

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[3] / "probes" / "pretrained" / "smollm2-135m-instruct"
PROMPTS = [
    "The weather this morning was",
    "Write one sentence about a garden.",
    "My favourite recipe begins with",
    "Deux amis se promènent au bord de la mer, et",
    "A list of 3 colours: 🔴",
    "The train was late again, so " * 12,
]


def plans(lm):
    """Slabs, a joint plan, a monitor, a placebo and windows, with the three shipped probes."""
    store = ProbeStore.open(SHIPPED, lm)
    toxicity, sentiment, language = (store.get(name) for name in ("toxicity", "sentiment", "language"))
    low, kind = Constraint(toxicity, Bounds(upper=0.05)), Constraint(sentiment, Bounds(lower=0.7))
    return [
        None,
        Plan((low,)),
        Plan((kind,)),
        Plan((low, kind)),
        Plan((low,), mode="monitor"),
        Plan((Constraint(toxicity, Bounds(upper=0.05), controller="random"),)),
        Plan((Constraint(language, Bounds(upper=0.5), prompt="all"),)),
        Plan((Constraint(toxicity, Bounds(upper=0.05), generation=(2, 9)),)),
        Plan((Constraint(sentiment, Bounds(lower=0.7), strength=0.5, max_dose=0.1),)),
        Plan((Constraint(toxicity, Bounds(upper=0.02), layers=(10, 20)),)),
        None,
        Plan((Constraint(sentiment, Bounds(upper=0.3), prompt="none"),)),
    ]


def test_a_dozen_rows_of_the_embedded_model_are_as_alone(embedded, running, as_alone):
    torch.set_num_threads(1)
    requests = [
        Request(
            PROMPTS[at % len(PROMPTS)],
            Sampling(max_tokens=12 + at % 5, temperature=0.8 if at % 3 == 2 else 0, seed=at, ignore_eos=True),
            plan,
            logprobs=2,
            echo=at % 4 == 0,
        )
        for at, plan in enumerate(plans(embedded))
    ]
    with running(embedded, slots=6, row_tokens=256, chunk_tokens=64) as answers:
        done = answers(requests)
    as_alone(embedded, requests, done)
    assert len({ours.text for ours in done}) == 12
