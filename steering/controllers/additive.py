"""additive: the same vector added to every steered token.

    delta = c v

v is the difference of class means (CAA, Panickssery et al., 2312.06681), the activation difference of one or more pairs
at their last token (ActAdd, Turner et al., 2308.10248), or the probe's own direction: `Settings.source`, defined in
`steering.controllers.directions`. ActAdd proper adds at the first prompt token only, CAA at all tokens after the
prompt; which tokens is the caller's choice here and not part of the formula.

It does not look at the residual: a token that is already where it should be is pushed on, which is why large
coefficients break the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from steering.controllers.base import Carry, Settings
from steering.controllers.directions import PerLayer, vector
from steering.probe import Probe
from steering.slab import widen


@dataclass(frozen=True, eq=False)
class Additive:
    """c v per layer."""

    vectors: PerLayer
    """c v, (hidden_size,) each"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """Uses `coefficient` and `source`. Raises UnsupportedSteering when the probe lacks what the source needs."""
        return cls(PerLayer({at: settings.coefficient * vector(probe, at, settings.source) for at in layers}))

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """The vector, seen from every token: not to be written to."""
        work = widen(resid)
        return self.vectors.at(layer, work).expand_as(work)
