"""What every fit of two classes begins and ends with: checked float64 samples in, checked float32 statistics out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from probes.errors import FitError
from probes.harvest.shards import Floats

Wide = NDArray[np.float64]
Toward = Literal["negative", "positive"]


def source_and_target(negative: Floats, positive: Floats, toward: Toward, *, least: int = 1) -> tuple[Wide, Wide]:
    """(texts, hidden_size) of the class away from `toward` and of the class on it, in float64.

    Raises FitError for shapes that do not match, fewer than `least` texts in a class, or numbers that are not finite.
    """
    if negative.ndim != 2 or positive.ndim != 2 or negative.shape[1:] != positive.shape[1:]:
        raise FitError(
            f"activations have shapes {negative.shape} and {positive.shape}, expected (texts, hidden_size) of one "
            "hidden size; harvest both classes from the same model and layer"
        )
    for name, found in (("negative", negative), ("positive", positive)):
        if len(found) < least:
            raise FitError(
                f"the {name} class has {len(found)} texts, this fit needs at least {least}; give more labelled texts"
            )
        if not np.isfinite(found).all():
            raise FitError(
                f"activations of the {name} class hold NaN or infinity; check the model's dtype and the layer"
            )
    away, on = (negative, positive) if toward == "positive" else (positive, negative)
    return away.astype(np.float64), on.astype(np.float64)


def unit(vector: Wide, *, what: str) -> Wide:
    """`vector` at length 1. Raises FitError, naming `what`, when it has no length beyond rounding."""
    length = float(np.linalg.norm(vector))
    if not length > 0:
        raise FitError(f"{what} is zero, so the classes do not differ here; check the labels or take another layer")
    scaled: Wide = vector / length
    return scaled


def narrowed(statistics: Mapping[str, Wide | float]) -> dict[str, Floats]:
    """The statistics as they are stored, in float32. Raises FitError when one does not fit into it."""
    stored = {}
    for name, value in statistics.items():
        with np.errstate(over="ignore"):
            narrow: Floats = np.array(value, dtype=np.float32, order="C")
        if not np.isfinite(narrow).all():
            raise FitError(f"{name} leaves the range of float32; check the model and the layer")
        stored[name] = narrow
    return stored
