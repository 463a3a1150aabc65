"""Sparse read-outs: k coordinates of the residual stream only, chosen by halving.

Fit on the coordinates that are left, keep the half (at least k) whose weights on standardised activations are largest,
fit again, until k remain; the last fit is the probe. Fitting again between the halvings is there because the weights of
correlated coordinates share the work: one that looks weak beside its neighbours may carry the concept without them.
Ties go to the coordinate with the lower number. What k costs is measured by `benchmarks/sparse.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from probes.errors import FitError
from probes.harvest.shards import Floats
from probes.methods.samples import Affine, Labels

Fit = Callable[[Floats, Labels], Affine]


def fit_sparse(resid: Floats, labels: Labels, *, coordinates: int, fit: Fit) -> Affine:
    """`fit` on `coordinates` of the columns of `resid` (texts, hidden_size), with weight 0 everywhere else.

    Raises FitError for fewer than one coordinate or more than there are, and as `fit` does.
    """
    size = resid.shape[1]
    if not 1 <= coordinates <= size:
        raise FitError(
            f"{coordinates} coordinates are asked for, the residual stream has {size}; give --coordinates from 1 to "
            f"{size}",
            param="coordinates",
        )
    spread = resid.std(axis=0, dtype=np.float64)
    kept = np.arange(size)
    found = fit(resid, labels)
    while len(kept) > coordinates:
        strength = np.abs(found.weight * spread[kept])
        count = max(coordinates, len(kept) // 2)
        kept = np.sort(kept[np.argsort(-strength, kind="stable")[:count]])
        found = fit(np.ascontiguousarray(resid[:, kept]), labels)
    weight = np.zeros(size, dtype=np.float32)
    weight[kept] = found.weight
    return Affine(weight, found.bias)
