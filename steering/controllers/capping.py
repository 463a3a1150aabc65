"""capping: activation capping (Assistant Axis, 2601.10387) is the slab with one side and a unit weight.

    lower   x <- x + max(0, tau - v . x) v        upper   x <- x + min(0, tau - v . x) v,        ||v|| = 1

With w = v, w . w = 1, bias 0 and low = tau, the projection of `steering.slab` is delta = (max(v . x, tau) - v . x) v,
the first of the two; with high = tau it is the second. So capping needs no code of its own and inherits the slab's
verification of the stored value. The paper takes tau from a percentile of normal text, the 25th, and the first line.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from steering.errors import InvalidBounds
from steering.slab import Slabs, slab


def cap(direction: Tensor, threshold: float, side: Literal["lower", "upper"] = "lower") -> Slabs:
    """Keep v . x at or above `threshold` ("lower") or at or below it ("upper"), v the unit vector of `direction`.

    `direction` is (hidden_size,), of any length but zero. Raises InvalidBounds for a direction without a length or a
    threshold that is not a number.
    """
    length = float(direction.float().norm())
    if not 0 < length < float("inf"):
        raise InvalidBounds(f"the direction has length {length}, so nothing can be capped along it; give another one")
    unit = direction.float() / length
    return slab(unit, 0.0, low=threshold) if side == "lower" else slab(unit, 0.0, high=threshold)
