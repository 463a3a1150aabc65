"""The one interface of the controllers that hold no bound: each says by how much it would move the residual stream.

    delta = controller.delta(resid, layer=..., carry=...)

What is common to all is done by whoever calls them (`steering.rows`): which tokens, `strength`, `max_dose`, the cast to
the stored dtype, and the reading of the probe before and after. So a comparison between two of them compares the
formulas and nothing else. None of them promises a bound; the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from torch import Tensor

from steering.probe import Probe

Source = Literal["mean", "contrast", "weight"]
"""Where a direction comes from; see `steering.controllers.directions`."""

Carry = dict[str, Tensor]
"""What a controller remembers from one layer to the next within one forward pass; empty at the first."""


@dataclass(frozen=True)
class Settings:
    """What a request may choose about a controller; each uses what its formula has."""

    coefficient: float = 1.0
    """Multiplies the vector, or the setpoint's distance from zero."""
    gains: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Proportional, integral and derivative gain of `setpoint`."""
    source: Source = "mean"
    """What the vector of `additive` and `ablate` is made from."""
    piecewise: bool = False
    """`reading-vector` pushes each token further to the side of the centre it is on, not all to one side."""


class Controller(Protocol):
    """A rule fitted offline. Frozen, shared between batches; all memory is in `carry`."""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """From the statistics `probe` carries. Raises UnsupportedSteering, naming what is missing."""
        ...

    def delta(self, resid: Tensor, *, layer: int, carry: Carry) -> Tensor:
        """The change of `resid` (rows, seq, hidden_size) float32 after block `layer`; same shape and dtype.

        Called once per layer in rising order within a forward pass, on the stream as earlier layers left it.
        """
        ...
