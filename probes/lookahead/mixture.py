"""Logistic regression with a weight per row, and the weights of a mixture of two sources.

    minimise  sum_i w_i log(1 + exp(-y_i (v . u_i + c)))  +  ||v||^2 / (2 C),    u = (x - mean_w) / std_w

as `probes.methods.fit.fit_affine`, to which it is equal for unit weights; a row of weight k counts as k equal rows,
in the scaler too. In a mixture with share s every (source, class) gets half of its source's share,

    w = s N / (2 n_class)  for the corpus,   (1 - s) N / (2 n_class)  for the model's own states,   N rows in all,

so that within the weighted sample the source says nothing about the label: otherwise what tells a finished comment
from a sentence being written would be read as the concept, because the corpus is balanced and the model's text is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from probes.errors import FitError
from probes.harvest.shards import Floats
from probes.methods.fit import Affine, Labels
from probes.methods.logistic import TOLERANCE
from probes.methods.samples import MAX_ITER, Standardised

Weights = NDArray[np.float64]


def mixture_weights(policy: Labels, corpus: Labels, *, share: float) -> tuple[Weights, Weights]:
    """Weights of the model's own states and of the corpus; they sum to the number of rows.

    With a share of 0 or 1 the other source has weight 0 everywhere. Raises FitError for a share outside [0, 1] or a
    class that one of the sources in use lacks.
    """
    if not 0.0 <= share <= 1.0:
        raise FitError(
            f"the corpus share is {share}; expected a number from 0 to 1 (--corpus-share)", param="corpus_share"
        )
    total = (share < 1) * len(policy) + (share > 0) * len(corpus)
    made = []
    for name, labels, part in (("the model's own states", policy, 1.0 - share), ("the corpus", corpus, share)):
        weights = np.zeros(len(labels))
        if part > 0:
            for label in (0, 1):
                rows = labels == label
                if not rows.any():
                    raise FitError(f"{name} hold no row with label {label}, so there is nothing to tell apart")
                weights[rows] = part * total / (2 * rows.sum())
        made.append(weights)
    return made[0], made[1]


def fit_weighted(resid: Floats, labels: Labels, weights: Weights, *, c: float) -> Affine:
    """Fit on (rows, hidden_size), labels 0 and 1 and weights >= 0; rows of weight 0 do not count at all.

    Raises FitError as `fit_affine` does.
    """
    used = weights > 0
    wide, labels, weights = resid[used].astype(np.float64), labels[used], weights[used]
    if len(np.unique(labels)) != 2:
        raise FitError("labels hold one class only; a probe separates two")
    mean = np.average(wide, axis=0, weights=weights)
    std = np.sqrt(np.average((wide - mean) ** 2, axis=0, weights=weights))
    constant = std <= 1e-12 * np.maximum(1.0, np.abs(mean))
    if constant.all():
        raise FitError("all states are the same, so nothing separates them; check the texts and the layer")
    std[constant] = 1.0
    wide -= mean
    wide /= std
    model = LogisticRegression(C=c, solver="lbfgs", tol=TOLERANCE, max_iter=MAX_ITER)
    model.fit(wide, labels, sample_weight=weights)
    if model.n_iter_[0] >= MAX_ITER:
        raise FitError(f"the fit did not converge within {MAX_ITER} steps at C={c:g}; give a smaller --C", param="C")
    return Standardised(wide, mean, std, constant).folded(model.coef_[0], float(model.intercept_[0]))
