"""The placebo: as far as another rule would move, but in a random direction.

    delta = ||delta of the rule|| * r,   r uniform on the unit sphere, one per seed and layer

An effect that this arm shows too is an effect of perturbing the stream, not of the probe's direction. How its steps
come to be as long as the rule's at every layer is said in `steering.changes`, where they are taken.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_direction(hidden_size: int, *, seed: int, layer: int) -> Tensor:
    """A unit vector, (hidden_size,) float32; the same for the same seed and layer."""
    generator = torch.Generator().manual_seed((seed * 1009 + layer) % 2**63)
    drawn = torch.randn(hidden_size, generator=generator)
    unit: Tensor = drawn / drawn.norm()
    return unit
