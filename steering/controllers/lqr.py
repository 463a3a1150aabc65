"""lqr: feedback whose gain knows what later blocks make of it (A-LQR, Skifstad, Yang and Chou, 2604.19018).

    delta_k = (beta_k - v_k . x_k) g_k,   g_k = K_k v_k

v_k and beta_k are those of `setpoint`. K_k is the gain of a linear quadratic regulator over the steered layers, whose
dynamics are the mean Jacobians of the blocks, with q ||state||^2 for cost of state and r ||u||^2 for cost of effort;
how it is found, and at which point of the stream it acts, is said in probes/fitting/lqr.py. Where blocks hand the
stream on as it is (Jacobian near I) K_k is near a number below 1 and this is `setpoint` with that gain; where later
blocks amplify a direction K_k pushes it harder, and g_k need not be parallel to v_k.

The gains were solved for all fitted layers. Steering fewer of them is sound but no longer optimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from steering.controllers.base import Carry, Settings
from steering.controllers.directions import PerLayer, setpoints
from steering.probe import Probe
from steering.slab import widen


@dataclass(frozen=True, eq=False)
class Lqr:
    """v, beta and g per layer."""

    directions: PerLayer
    """v, (hidden_size,) each, of unit length"""
    targets: PerLayer
    """beta, () each"""
    gains: PerLayer
    """g, (hidden_size,) each"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses `coefficient`. Raises UnsupportedSteering when the probe carries no class means or no 'lqr' gains."""
        gains = PerLayer({layer: probe.group("lqr", layer)["gain"] for layer in layers})
        return cls(*setpoints(probe, layers, settings.coefficient), gains)

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """(beta - v . x) g"""
        work = widen(resid)
        error = self.targets.at(layer, work) - (work * self.directions.at(layer, work)).sum(dim=-1)
        return error.unsqueeze(-1) * self.gains.at(layer, work)
