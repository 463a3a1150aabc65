"""`contrast.vector`: mean over pairs of (activation on the side steered toward - activation of its counterpart).

    v = 1/n sum_i (x_i^toward - x_i^away)

From one pair of prompts it is the vector of ActAdd (2308.10248), from many pairs that end in the two answers that of
CAA (2312.06681); both read the last token. It is not normalised: its length is how far the pairs are apart. A mean of
differences is a difference of means, so who is paired with whom is no matter, and over the texts of the probe it equals
the difference of class means. What sets it apart is which texts one gives it.
"""

from __future__ import annotations

from probes.fitting.samples import Toward, narrowed, source_and_target
from probes.harvest.shards import Floats


def fit_contrast(negative: Floats, positive: Floats, *, toward: Toward) -> dict[str, Floats]:
    """`contrast.vector` (hidden_size,) from (texts, hidden_size) of either side.

    Raises FitError for an empty side, shapes that do not match or numbers that are not finite.
    """
    away, on = source_and_target(negative, positive, toward)
    return narrowed({"contrast.vector": on.mean(axis=0) - away.mean(axis=0)})
