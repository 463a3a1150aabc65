"""Capping is max and min of one projection; the slab does it, whatever the length of the direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steering.controllers.capping import cap
from steering.errors import InvalidBounds


@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize("threshold", [-2.0, 0.0, 1.5])
def test_it_is_the_papers_formula(side, threshold, resid):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    x, v = resid.double().numpy(), direction.double().numpy() / np.linalg.norm(direction.double().numpy())
    missing = threshold - x @ v
    wanted = x + (np.maximum(0, missing) if side == "lower" else np.minimum(0, missing))[..., None] * v
    assert 0 < (missing > 0).mean() < 1
    for scaled in (direction, 40 * direction):
        np.testing.assert_allclose(cap(scaled, threshold, side)(resid).numpy(), wanted, rtol=0, atol=2e-5)


def test_a_token_on_the_right_side_is_bit_exact_and_the_default_is_the_lower_cap(resid):
    direction = torch.eye(32)[3]
    capped = cap(direction, 0.0)(resid)
    right = resid[..., 3] >= 0
    assert torch.equal(capped[right], resid[right])
    assert bool((capped[..., 3] >= 0).all())
    assert torch.equal(capped[..., :3], resid[..., :3])


@pytest.mark.parametrize("direction", [torch.zeros(3), torch.tensor([1.0, float("nan"), 0.0]), torch.full((3,), 3e38)])
def test_a_direction_without_a_length_is_refused(direction):
    with pytest.raises(InvalidBounds, match="nothing can be capped along it"):
        cap(direction, 0.0)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(InvalidBounds):
        cap(torch.ones(3), float("nan"))
