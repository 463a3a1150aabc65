"""erase: the concept is made unreadable to every linear classifier, by the smallest change (LEACE, 2306.03819).

    delta = -(reader . x - center) writer,   reader = W u,   writer = W^+ u,   center = reader . mean

W is the whitening matrix of all activations and u the unit vector of W (cross-covariance with the label). For a label
of two classes the paper's r(x) = x - W^+ P W (x - mean), P the projection on the columns of W Sigma_xz, is of rank one,
and that is all that is stored. Over the texts of the fit the two classes then have equal means, hence no linear
classifier beats a constant, and no other affine map that achieves this changes x less in any quadratic norm. That is
a statement about those texts at that layer: later layers may compute the concept again. Fitted in
probes/fitting/erase.py. It has no side: both classes meet in the middle.
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
class Erase:
    """An oblique projection of rank one per layer."""

    readers: PerLayer
    """(hidden_size,) each"""
    writers: PerLayer
    """(hidden_size,) each"""
    centers: PerLayer
    """() each"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses no setting. Raises UnsupportedSteering when the probe carries no 'erase' statistics."""
        groups = {layer: probe.group("erase", layer) for layer in layers}
        parts = ("reader", "writer", "center")
        return cls(*(PerLayer({layer: group[part] for layer, group in groups.items()}) for part in parts))

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """-(reader . x - center) writer"""
        work = widen(resid)
        read = (work * self.readers.at(layer, work)).sum(dim=-1, keepdim=True)
        return (self.centers.at(layer, work) - read) * self.writers.at(layer, work)
