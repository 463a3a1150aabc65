"""affine, affine-mean: one class carried onto the moments of the other (MiMiC, Singh et al., 2402.09631).

    affine-mean    delta = mu_t - mu_s
    affine         delta = W x + b - x,   W = Ss^-1/2 (Ss^1/2 St Ss^1/2)^1/2 Ss^-1/2,   b = mu_t - W mu_s

s is the class away from the allowed side, t the one on it. Of all maps that give the source class the target's mean
(and, for affine, its covariance), these move it least in the mean square: W is the optimal transport map between two
normal distributions. The mean-only map is `additive` with the difference of means and coefficient 1; it has a name of
its own so that the two MiMiC arms stand side by side. Fitted in probes/fitting/affine.py.

MiMiC proves its optimality for points of the source class, whose label it knows or predicts. While text is written
nobody knows a token's class, so every steered token is moved, also one already on the target's side: it is carried as
far beyond. `slab` and `capping` are the rules that let such tokens be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from steering.controllers.additive import Additive
from steering.controllers.base import Carry, Settings
from steering.controllers.directions import PerLayer, vector
from steering.probe import Probe
from steering.slab import widen


@dataclass(frozen=True, eq=False)
class MeanMatch(Additive):
    """mu_t - mu_s per layer, whatever the settings."""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses no setting. Raises UnsupportedSteering when the probe carries no class means."""
        return cls(PerLayer({layer: vector(probe, layer, "mean") for layer in layers}))


@dataclass(frozen=True, eq=False)
class Affine:
    """W and b per layer. Costs hidden_size^2 multiplications a token, as a layer of the model does."""

    matrices: PerLayer
    """W, (hidden_size, hidden_size) each"""
    shifts: PerLayer
    """b, (hidden_size,) each"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses no setting. Raises UnsupportedSteering when the probe carries no 'affine' statistics."""
        groups = {layer: probe.group("affine", layer) for layer in layers}
        return cls(
            PerLayer({layer: group["matrix"] for layer, group in groups.items()}),
            PerLayer({layer: group["shift"] for layer, group in groups.items()}),
        )

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """W x + b - x"""
        work = widen(resid)
        return torch.nn.functional.linear(work, self.matrices.at(layer, work), self.shifts.at(layer, work)) - work
