"""`erase.reader`, `erase.writer`, `erase.center`: LEACE for a label of two classes (Belrose et al., 2306.03819).

    r(x) = x - W^+ P W (x - mean),   W = (Sigma^1/2)^+,   P the orthogonal projection on the columns of W Sigma_xz

Sigma is the covariance of all texts and Sigma_xz their cross-covariance with the label. For one label column Sigma_xz,
P = u u' with u the unit vector of W Sigma_xz, and the map is of rank one:

    reader = W u,   writer = W^+ u,   center = reader . mean,   r(x) = x - writer (reader . x - center)

reader . writer = 1, so it is a projection; the writer is parallel to Sigma_xz, that is, to the difference of class
means. The reader is scaled to have variance 1 over all texts. W is a pseudo-inverse: axes along which no text varies
are left alone. No shrinkage: the theorem (equal means, no cross-covariance left) holds for the texts of the fit, and
with fewer texts than coordinates for little else.
"""

from __future__ import annotations

import numpy as np

from probes.fitting.samples import Toward, narrowed, source_and_target, unit
from probes.harvest.shards import Floats


def fit_erase(negative: Floats, positive: Floats, *, toward: Toward = "negative") -> dict[str, Floats]:
    """reader and writer (hidden_size,), center () from (texts, hidden_size) per class.

    Erasure has no side: `toward` is there because every fit has it, and is not used. Raises FitError for fewer than two
    texts in a class, classes with equal means, shapes that do not match or numbers that are not finite.
    """
    low, high = source_and_target(negative, positive, "positive", least=2)
    everything = np.concatenate([low, high])
    mean = everything.mean(axis=0)
    centred = everything - mean
    labels = np.repeat([0.0, 1.0], [len(low), len(high)])
    cross = centred.T @ (labels - labels.mean()) / len(labels)

    _, scales, axes = np.linalg.svd(centred / np.sqrt(len(labels)), full_matrices=False)  # Sigma = axes' scales^2 axes
    kept = scales > scales[0] * max(centred.shape) * np.finfo(np.float64).eps
    scales, axes = scales[kept], axes[kept]
    direction = unit((axes @ cross) / scales, what="the difference of class means")  # u, in the basis of the axes
    reader, writer = axes.T @ (direction / scales), axes.T @ (direction * scales)
    return narrowed({"erase.reader": reader, "erase.writer": writer, "erase.center": float(reader @ mean)})
