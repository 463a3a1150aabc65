"""reading-vector: the main axis of contrast differences, added (RepE, Zou et al., 2310.01405).

    linear      delta = c v
    piecewise   delta = c sign(v . x - center) v

v is the first principal component of differences between texts of the two classes, of unit length and signed toward the
allowed side; center is v's read-out halfway between the class means. Fitted in probes/fitting/reading.py. Linear pushes
every token toward the allowed side. Piecewise pushes each token further to the side it is on: with c > 0 it sharpens
the concept either way, with c < 0 it blurs it.

v is a unit vector, so c is in units of the stream, unlike the coefficient of `additive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from steering.controllers.base import Carry, Settings
from steering.controllers.directions import PerLayer
from steering.probe import Probe
from steering.slab import widen


@dataclass(frozen=True, eq=False)
class ReadingVector:
    """v and center per layer."""

    vectors: PerLayer
    """v, (hidden_size,) each, of unit length"""
    centers: PerLayer
    """() each"""
    coefficient: float = 1.0
    """c"""
    piecewise: bool = False

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses `coefficient` and `piecewise`. Raises UnsupportedSteering without 'reading' statistics."""
        groups = {layer: probe.group("reading", layer) for layer in layers}
        parts = ("vector", "center")
        vectors, centers = (PerLayer({layer: group[part] for layer, group in groups.items()}) for part in parts)
        return cls(vectors, centers, settings.coefficient, settings.piecewise)

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """c v, or c sign(v . x - center) v"""
        work = widen(resid)
        vector = self.vectors.at(layer, work)
        if not self.piecewise:
            return (self.coefficient * vector).expand_as(work)
        side = ((work * vector).sum(dim=-1, keepdim=True) - self.centers.at(layer, work)).sign()
        return self.coefficient * side * vector
