"""Conditional perplexity against a plain loop that feeds one text at a time, without padding."""

from __future__ import annotations

import math

import pytest
import torch

from eval.fluency import conditional_perplexity
from steering import LanguageModel

PAIRS = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 14, 15]), ([20, 21, 22, 23, 24, 25], [3])]


def by_hand(lm: LanguageModel, prompt: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = lm.model(torch.tensor([prompt + continuation])).logits[0].double()
    losses = [-logits[len(prompt) - 1 + at].log_softmax(-1)[token].item() for at, token in enumerate(continuation)]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("which", ["lm", "mamba_lm"])
@pytest.mark.parametrize("batch", [1, 3])
def test_perplexity_equals_the_plain_loop_whatever_the_batch(
    which: str, batch: int, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(which)
    found = conditional_perplexity(model, PAIRS, batch=batch)
    assert found == pytest.approx([by_hand(model, *pair) for pair in PAIRS], rel=1e-4)


def test_an_empty_continuation_has_no_perplexity(lm: LanguageModel) -> None:
    first, second = conditional_perplexity(lm, [([5, 6], []), ([5, 6], [7])])
    assert math.isnan(first)
    assert second > 1
