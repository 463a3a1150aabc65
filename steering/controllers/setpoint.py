"""setpoint: a PID controller across depth holds one read-out at a setpoint (S-PID, the baseline of 2604.19018).

    e_k = beta_k - v_k . x_k
    delta_k = (Kp e_k + Ki sum_{j <= k} e_j + Kd (e_k - e_{k-1})) v_k

k counts the steered layers in order, x_k is the stream as the layers before left it, v_k the unit difference of class
means toward the allowed side, and beta_k = c v_k . mu_target,k: with coefficient c = 1 the setpoint is where the class
steered toward is on average. There is no e before the first layer, so its derivative term is zero. Gains 1, 0, 0 put
every token exactly on the setpoint, also those beyond it: it pulls from both sides, as a slab of no width would.
PID steering (2510.04309) has the same three terms on class means instead of the token at hand.
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

_SUM, _LAST = "setpoint.sum", "setpoint.last"


@dataclass(frozen=True, eq=False)
class Setpoint:
    """Three gains, and v and beta per layer."""

    directions: PerLayer
    """v, (hidden_size,) each, of unit length"""
    targets: PerLayer
    """beta, () each"""
    gains: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Kp, Ki, Kd"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses `coefficient` and `gains`. Raises UnsupportedSteering without (distinct) class means."""
        return cls(*setpoints(probe, layers, settings.coefficient), settings.gains)

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """The command of this layer; leaves (rows, seq) of error and its sum in `carry`."""
        work = widen(resid)
        direction = self.directions.at(layer, work)
        error = self.targets.at(layer, work) - (work * direction).sum(dim=-1)
        total = error + carry[_SUM] if _SUM in carry else error
        change = error - carry.get(_LAST, error)
        carry[_SUM], carry[_LAST] = total, error
        proportional, integral, derivative = self.gains
        command = proportional * error + integral * total + derivative * change
        return command.unsqueeze(-1) * direction
