"""transport: each coordinate of one class carried onto the other's by a straight line (Linear-AcT, 2410.23054).

    delta_i = a_i x_i + b_i - x_i

a_i and b_i are the least-squares line from the sorted values of coordinate i in the class away from the allowed side to
those in the class on it: in one dimension, matching sorted samples is optimal transport. Fitted in
probes/fitting/transport.py. The paper's lambda in [0, 1] is the caller's `strength`, which scales delta.

Two things the paper has are not here. It may restrict the map to the range of values seen in the fit; this one acts on
all values. It fits layer after layer on a stream already transported by the earlier ones; here
each layer is fitted on the plain stream, so many layers at once move it further than one map would say.
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
class Transport:
    """a - 1 and b per layer."""

    changes: PerLayer
    """a - 1, (hidden_size,) each"""
    shifts: PerLayer
    """b, (hidden_size,) each"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses no setting. Raises UnsupportedSteering when the probe carries no 'transport' statistics."""
        groups = {layer: probe.group("transport", layer) for layer in layers}
        return cls(
            PerLayer({layer: group["scale"] - 1.0 for layer, group in groups.items()}),
            PerLayer({layer: group["shift"] for layer, group in groups.items()}),
        )

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """(a - 1) x + b, coordinate by coordinate."""
        work = widen(resid)
        return self.changes.at(layer, work) * work + self.shifts.at(layer, work)
