"""`reading.vector`, `reading.center`: the first principal axis of differences between the classes (RepE, 2310.01405).

    d_i = x_i - x'_i over pairs of one text of each class;   v = argmax_{||v|| = 1} sum_i (v . d_i)^2
    center = v . (mu_negative + mu_positive) / 2

Each difference counts in both directions, which is why no mean is subtracted: the shift common to all pairs is the
concept itself, and centred differences would have lost it. (RepE's reader shuffles the order within pairs, to the same
end; this is its limit over all shuffles.) An axis has no sign; it is given the one on which the class steered toward
has the larger mean, where RepE asks for the larger number of pairs. Pairs are those given, or random ones, drawn
without replacement.
"""

from __future__ import annotations

import numpy as np

from probes.errors import FitError
from probes.fitting.samples import Toward, narrowed, source_and_target
from probes.harvest.shards import Floats


def fit_reading(
    negative: Floats, positive: Floats, *, toward: Toward, paired: bool = False, seed: int = 0
) -> dict[str, Floats]:
    """`reading.vector` (hidden_size,), of unit length, and `reading.center` () from (texts, hidden_size) per class.

    `paired`: row i of each class belongs together; otherwise as many random pairs as the smaller class has texts, drawn
    with `seed`. Raises FitError for an empty class, shapes that do not match, numbers that are not finite, pairs that
    do not differ, and an axis on which the classes have equal means, which has no sign.
    """
    source, target = source_and_target(negative, positive, toward)
    random = np.random.default_rng(seed)
    count = min(len(source), len(target))
    if paired and len(source) != len(target):
        raise FitError(f"{len(source)} and {len(target)} texts do not make pairs; give one text of each class per pair")
    left, right = (source, target) if paired else (random.permutation(side)[:count] for side in (source, target))
    differences = right - left
    if not differences.any():
        raise FitError("the texts of every pair have the same activations; check the labels or take another layer")
    axis = np.linalg.svd(differences, full_matrices=False)[2][0]
    apart = float(axis @ (target.mean(axis=0) - source.mean(axis=0)))
    if abs(apart) <= 1e-12 * float(np.linalg.norm(differences, axis=1).mean()):
        raise FitError("the classes have equal means along the main axis of their differences, so it has no sign")
    vector = axis * np.sign(apart)
    center = float(vector @ (source.mean(axis=0) + target.mean(axis=0))) / 2
    return narrowed({"reading.vector": vector, "reading.center": center})
