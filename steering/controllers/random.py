"""The placebo: as far as the slab would move, but in a random direction.

    delta = (clamp(z, low, high) - z) / ||w|| * r,   r uniform on the unit sphere

Its length per token is that of the Euclidean projection it shadows. An effect that this arm shows too is an effect of
perturbing the stream, not of the probe's direction.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_direction(weight: Tensor, *, seed: int, layer: int) -> Tensor:
    """The change of the residual per unit of logit, (hidden_size,) float32: as long as w / (w . w), at random.

    The same seed and layer give the same direction.
    """
    generator = torch.Generator().manual_seed(seed * 1009 + layer)
    drawn = torch.randn(weight.shape, generator=generator)
    scaled: Tensor = drawn / (drawn.norm() * weight.norm().cpu())
    return scaled.to(weight.device)
