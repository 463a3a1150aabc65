"""Draws follow the nucleus, and part two arms no sooner than their distributions do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from probes.screen import nucleus
from probes.screen.nucleus import draw, gumbel

ROWS = 20_000


def truncated(logits: torch.Tensor, top_p: float) -> np.ndarray:
    """The nucleus by a plain loop, renormalised."""
    mass = logits.double().softmax(-1).numpy()
    kept, total = np.zeros_like(mass), 0.0
    for token in np.argsort(-mass):
        if total >= top_p:
            break
        kept[token] = mass[token]
        total += mass[token]
    return kept / kept.sum()


@pytest.mark.parametrize("top_p", [0.5, 0.9, 1.0])
def test_tokens_come_as_often_as_the_nucleus_says(top_p):
    logits = 1.5 * torch.randn(12, generator=torch.Generator().manual_seed(0))
    expected = truncated(logits, top_p)
    drawn = draw(logits.expand(ROWS, -1), rows=range(ROWS), step=3, seed=1, top_p=top_p)
    counts = np.bincount(drawn.numpy(), minlength=12)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], ROWS * expected[kept]).pvalue > 0.001


@pytest.mark.parametrize("vary", ["rows", "step", "seed"])
def test_the_noise_is_gumbel_and_new_for_every_row_step_and_seed(vary):
    def keys(at: int) -> np.ndarray:
        given = {"rows": 0, "step": 0, "seed": 0} | {vary: at}
        return nucleus._keys([given["rows"]], step=given["step"], seed=given["seed"])

    found = np.concatenate([gumbel(keys(at), np.arange(20)[None]) for at in range(400)])
    assert stats.kstest(found.ravel(), "gumbel_r").pvalue > 0.001
    between_tokens, between_keys = np.corrcoef(found.T), np.corrcoef(found[:-1].ravel(), found[1:].ravel())
    assert np.abs(between_tokens - np.eye(20)).max() < 5 / 400**0.5
    assert abs(between_keys[0, 1]) < 4 / 8000**0.5


@pytest.mark.parametrize("nudge", [0.01, 0.1, 0.5])
def test_two_arms_part_no_more_often_than_the_bound_of_the_coupling(nudge):
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(300, generator=generator)
    moved = logits + nudge * torch.randn(300, generator=generator)
    distance = 0.5 * np.abs(truncated(logits, 1.0) - truncated(moved, 1.0)).sum()
    one, two = (
        draw(arm.expand(ROWS, -1), rows=range(ROWS), step=0, seed=0, top_p=1.0).numpy() for arm in (logits, moved)
    )
    bound = 2 * distance / (1 + distance)
    assert distance / 2 < (one != two).mean() < bound + 4 * (bound / ROWS) ** 0.5


@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["flat: the vocabulary is sorted", "peaked: the likeliest do"])
def test_looking_at_the_likeliest_tokens_only_changes_no_draw(spread, monkeypatch):
    logits = spread * torch.randn(64, 2000, generator=torch.Generator().manual_seed(0))
    quick = draw(logits, rows=range(64), step=0, seed=0, top_p=0.9)
    monkeypatch.setattr(nucleus, "_FEW", 2000)
    assert torch.equal(draw(logits, rows=range(64), step=0, seed=0, top_p=0.9), quick)


def test_a_row_draws_the_same_in_any_batch():
    logits = torch.randn(8, 500, generator=torch.Generator().manual_seed(4))
    whole = draw(logits, rows=range(8), step=5, seed=9, top_p=0.9)
    part = draw(logits[[6, 2]], rows=[6, 2], step=5, seed=9, top_p=0.9)
    assert part.tolist() == [whole[6], whole[2]]
