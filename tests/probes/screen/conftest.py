"""A screen with a known answer: a scorer that counts one letter, and a probe along that letter's unembedding row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from probes.screen.question import LEAD, Question
from steering import Bounds, LanguageModel, Probe
from steering.scorers import ScorerCard
from steering.tiny import tiny_model, tiny_probe

LETTER = "e"
TOKENS = 6


class Letters:
    """Share of LETTER in a text; NaN for an empty one."""

    card = ScorerCard("letters", "ruler", "1", "nothing", "full of one letter")

    def score(self, texts: Sequence[str]) -> list[float]:
        return [text.count(LETTER) / len(text) if text else math.nan for text in texts]


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    """Three layers of 32."""
    return tiny_model(layers=3, hidden_size=32, seed=1)


def _along(lm: LanguageModel, directions: dict[int, torch.Tensor]) -> Probe:
    probe = tiny_probe(lm, layers=sorted(directions))
    layers = {
        layer: replace(
            probe.layers[layer], weight=direction / direction.norm(), bias=0.0, calibration=(1.0, 0.0), fitted={}
        )
        for layer, direction in directions.items()
    }
    return Probe(manifest=probe.manifest, layers=layers)


@pytest.fixture(scope="session")
def planted_probe(model: LanguageModel) -> Probe:
    """Layer 2, the last, along what the head reads LETTER by; layers 0 and 1 along it too, as far as they reach."""
    row = model.tokenizer.convert_tokens_to_ids(LETTER)
    direction = model.model.lm_head.weight[row].detach().clone()
    return _along(model, dict.fromkeys(range(3), direction))


@pytest.fixture(scope="session")
def idle_probe(model: LanguageModel) -> Probe:
    """Random directions at right angles to LETTER's."""
    row = model.tokenizer.convert_tokens_to_ids(LETTER)
    letter = model.model.lm_head.weight[row].detach()
    generator = torch.Generator().manual_seed(3)
    found = {}
    for layer in range(3):
        drawn = torch.randn(32, generator=generator)
        found[layer] = drawn - drawn.dot(letter) / letter.dot(letter) * letter
    return _along(model, found)


@pytest.fixture(scope="session")
def ask(model: LanguageModel) -> Callable[..., Question]:
    """ask(probe, bounds=..., prompts=48, ...) -> Question on random prompts and neutral text."""

    def make(
        probe: Probe,
        bounds: Bounds | None = None,
        *,
        prompts: int = 48,
        neutral: int = 6,
        new_tokens: int = TOKENS,
        batch: int = 20,
        scorer: Letters | None = None,
    ) -> Question:
        generator = torch.Generator().manual_seed(7)

        def some(length: int) -> tuple[int, ...]:
            return tuple(torch.randint(97, 123, (length,), generator=generator).tolist())

        return Question(
            lm=model,
            probe=probe,
            bounds=bounds or Bounds(lower=30.0, space="logit"),
            metric="euclidean",
            scorer=scorer or Letters(),
            prompts=tuple(some(2 + at % 5) for at in range(prompts)),
            neutral=tuple(some(LEAD + new_tokens - 1) for _ in range(neutral)),
            new_tokens=new_tokens,
            batch=batch,
        )

    return make
