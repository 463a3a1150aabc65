"""`transport.scale`, `transport.shift`: per coordinate a line from one class's values to the other's (2410.23054).

    x, y = sorted values of the coordinate in the source and the target class, equally many
    scale = sum (x - mean x)(y - mean y) / sum (x - mean x)^2,     shift = mean y - scale * mean x

Sorted samples matched in order are the optimal transport between two samples of one number, and the line is its least-
squares fit (Linear-AcT). Classes of unequal size are compared at the (i - 1/2) / m quantiles, m the smaller size, which
for the smaller class are its own sorted values. The source is the class away from the side steered toward. A coordinate
that does not vary in the source gets scale 1: it is shifted and no more. Scales are never negative, as both are sorted.
"""

from __future__ import annotations

import numpy as np

from probes.fitting.samples import Toward, narrowed, source_and_target
from probes.harvest.shards import Floats


def fit_transport(negative: Floats, positive: Floats, *, toward: Toward) -> dict[str, Floats]:
    """Both (hidden_size,) from (texts, hidden_size) per class.

    Raises FitError for fewer than two texts in a class, shapes that do not match or numbers that are not finite.
    """
    source, target = source_and_target(negative, positive, toward, least=2)
    count = min(len(source), len(target))
    ranks = (np.arange(count) + 0.5) / count
    x, y = (np.quantile(side, ranks, axis=0, method="hazen") for side in (source, target))
    middle_x, middle_y = x.mean(axis=0), y.mean(axis=0)
    spread = ((x - middle_x) ** 2).sum(axis=0)
    varies = spread > count * (1e-12 * np.maximum(1.0, np.abs(middle_x))) ** 2
    together = ((x - middle_x) * (y - middle_y)).sum(axis=0)
    scale = np.where(varies, together / np.where(varies, spread, 1.0), 1.0)
    return narrowed({"transport.scale": scale, "transport.shift": middle_y - scale * middle_x})
