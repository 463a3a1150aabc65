"""ablate: the component along one direction is taken out of every steered token.

    delta = -(u . x) u,   ||u|| = 1

Directional ablation (Arditi et al., 2406.11717), there with u the difference of class means and at every layer and
token; `Settings.source` gives other directions. What is left is orthogonal to u: the concept reads as zero, which is
where neither class need be. Compare `erase`, which sets it to its mean and spares the rest of the covariance. The sign
of u does not matter, and there is no coefficient: half an ablation is `strength` 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from steering.controllers.base import Carry, Settings
from steering.controllers.directions import PerLayer, axis
from steering.probe import Probe
from steering.slab import widen


@dataclass(frozen=True, eq=False)
class Ablate:
    """u per layer."""

    directions: PerLayer
    """(hidden_size,) each, of unit length"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses `source`. Raises UnsupportedSteering when the probe lacks what it needs, or the direction is zero."""
        return cls(PerLayer({layer: axis(probe, layer, settings.source) for layer in layers}))

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """-(u . x) u"""
        work = widen(resid)
        unit = self.directions.at(layer, work)
        return -(work * unit).sum(dim=-1, keepdim=True) * unit
