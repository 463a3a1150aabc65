"""A metric on the residual stream: in which units "the smallest change" is small.

    M = diag(diagonal) + factor factor',    |delta|_M = sqrt(delta' M^-1 delta)

With M the covariance of a layer's activations within a class, |delta|_M counts standard deviations of the stream, so a
change along directions in which it varies anyway is cheap (whitened projection, Mahalanobis length). The smallest
change in the metric that takes w . x to a bound is along M w instead of w:

    delta = gap * M w / (w' M w)

and several bounds together need only G = W M W' and M W'. Both take M w once, when a plan is made: a projection in the
metric has the fields, shapes and operations of the Euclidean one and costs nothing more per step. Only the direction
differs, so the same bound is met exactly and verified on the stored value in the same way; the change is shorter in
the metric and longer in Euclidean length, which `max_dose` goes on measuring.

M is never formed. Its scale cancels. Not here: how M is estimated, `probes/fitting/metric.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import CorruptProbe
from steering.joint import JointSlabs, joint_slabs
from steering.probe import Probe
from steering.slab import Slabs, slab


@dataclass(frozen=True, eq=False)
class Metric:
    """diag(diagonal) + factor factor', symmetric positive definite. Raises CorruptProbe when it is not."""

    diagonal: Tensor
    """(hidden_size,), positive"""
    factor: Tensor
    """(hidden_size, rank); rank 0 for a metric of single coordinates"""

    def __post_init__(self) -> None:
        shapes = tuple(self.diagonal.shape), tuple(self.factor.shape)
        if self.diagonal.ndim != 1 or self.factor.ndim != 2 or len(self.factor) != len(self.diagonal):
            raise CorruptProbe(f"a metric of shapes {shapes}; expected (hidden_size,) and (hidden_size, rank)")
        if not bool((self.diagonal > 0).all() and self.diagonal.isfinite().all() and self.factor.isfinite().all()):
            raise CorruptProbe("a metric needs a positive diagonal and finite numbers; train the probe again")

    @classmethod
    def of(cls, probe: Probe, layer: int) -> Metric:
        """The metric that `probe` carries at `layer`. Raises UnsupportedSteering when it carries none."""
        parts = probe.group("metric", layer)
        return cls(diagonal=parts["diagonal"], factor=parts["factor"])

    @classmethod
    def euclidean(cls, hidden_size: int) -> Metric:
        """M = I."""
        return cls(diagonal=torch.ones(hidden_size), factor=torch.zeros(hidden_size, 0))

    @classmethod
    def mean(cls, metrics: Sequence[Metric]) -> Metric:
        """The mean of several: one metric for a change that has to serve several probes, in any order."""
        count = len(metrics)
        return cls(
            diagonal=torch.stack([metric.diagonal for metric in metrics]).mean(dim=0),
            factor=torch.cat([metric.factor for metric in metrics], dim=-1) / math.sqrt(count),
        )

    def lift(self, weight: Tensor) -> Tensor:
        """M w for `weight` (..., hidden_size), summed in float64, in the dtype and on the device of `weight`.

        What `slab` and `joint_slabs` take as `lifted`.
        """
        diagonal, factor = (part.to(weight.device).double() for part in (self.diagonal, self.factor))
        wide = weight.double()
        return (diagonal * wide + (wide @ factor) @ factor.mT).to(weight.dtype)

    def direction(self, weight: Tensor) -> Tensor:
        """M w / (w' M w), (..., hidden_size): the change per unit of logit that is shortest in the metric."""
        lifted = self.lift(weight.double())
        return (lifted / (weight.double() * lifted).sum(dim=-1, keepdim=True)).to(weight.dtype)

    def norm(self, delta: Tensor) -> Tensor:
        """sqrt(delta' M^-1 delta), (..., hidden_size) -> (...) float64.

        Woodbury in its stable form: delta = diagonal^1/2 u + factor y with the shortest (u, y), a least-squares problem
        in `rank` numbers; the length is that of (u, y), a sum of squares, where the textbook form subtracts.
        """
        diagonal, factor = (part.to(delta.device).double() for part in (self.diagonal, self.factor))
        root = diagonal.sqrt()
        scaled, wide = factor / root.unsqueeze(-1), delta.double() / root
        inner = scaled.mT @ scaled + torch.eye(factor.shape[-1], dtype=torch.float64, device=delta.device)
        y = torch.cholesky_solve((wide @ scaled).unsqueeze(-1), torch.linalg.cholesky(inner)).squeeze(-1)
        return torch.hypot((wide - y @ scaled.mT).norm(dim=-1), y.norm(dim=-1))

    def slab(self, weight: Tensor, bias: float, *, low: float = -math.inf, high: float = math.inf) -> Slabs:
        """The slab of one affine probe, nearest in this metric; see `steering.slab.slab`."""
        return slab(weight, bias, low=low, high=high, lifted=self.lift(weight))

    def joint(self, weight: Tensor, bias: Tensor, low: Tensor, high: Tensor) -> JointSlabs:
        """K slabs together, nearest in this metric; see `steering.joint.joint_slabs`."""
        return joint_slabs(weight, bias, low, high, lifted=self.lift(weight))
