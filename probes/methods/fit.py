"""The strength of a fit by cross-validation, and the two controls that say what chance looks like.

The fits themselves, one module per method, stand in `probes/methods/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from probes.errors import FitError
from probes.harvest.shards import Floats
from probes.measure.calibration import IDENTITY
from probes.measure.metrics import auroc, log_loss
from probes.methods.lda import auto_shrinkage
from probes.methods.logistic import fit_affine
from probes.methods.samples import Affine, Labels
from probes.methods.samples import Wide as Logits
from probes.methods.table import Method, Setting, fit_direction

__all__ = [
    "FOLDS",
    "PENALTIES",
    "SHRINKAGES",
    "Affine",
    "Labels",
    "Logits",
    "candidates",
    "choose_setting",
    "fit_affine",
    "ledoit_wolf",
    "random_direction_auroc",
    "random_label_auroc",
]

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)
"""Values of C tried in cross-validation. Residuals of hundreds to thousands of correlated coordinates and some thousand
texts want strong shrinkage: 0.003 for the shipped toxicity and sentiment probes. Classes that are separable (language)
take the largest value, which is why the grid ends there: beyond it only the norm of the weights would grow."""
SHRINKAGES = (0.9, 0.6, 0.3, 0.1, 0.03, 0.01, 0.001)
"""Values of the shrinkage of `lda` tried in cross-validation, the strongest first."""
FOLDS = 3

Load = Callable[[], tuple[Floats, Labels, NDArray[np.int64]]]
"""-> activations (rows, hidden_size) of one layer, their labels (rows,) and fold numbers (rows,)."""


def candidates(method: Method, *, coordinates: int | None = None) -> tuple[Setting, ...]:
    """What cross-validation tries for a method, the strongest regularisation first; one setting if it has none."""
    if method == "logistic":
        return tuple(Setting(method, C=c, coordinates=coordinates) for c in PENALTIES)
    if method == "lda":
        return tuple(Setting(method, shrinkage=share, coordinates=coordinates) for share in SHRINKAGES)
    return (Setting(method, coordinates=coordinates),)


def choose_setting(layers: Sequence[Load], settings: Sequence[Setting]) -> Setting:
    """The setting with the least held-out log loss, averaged over `layers` and folds; ties go to the earlier one.

    Each entry of `layers` loads one layer, so that one at a time is in memory. Folds that leave a class out are passed
    over. Raises FitError when every fold does.
    """
    losses = np.zeros(len(settings))
    used = 0
    for load in layers:
        resid, labels, folds = load()
        for fold in np.unique(folds):
            held = folds == fold
            if len(np.unique(labels[~held])) < 2:
                continue
            used += 1
            for at, setting in enumerate(settings):
                fitted = fit_direction(resid[~held], labels[~held], setting)
                losses[at] += log_loss(IDENTITY.probability(fitted.logit(resid[held])), labels[held])
    if not used:
        raise FitError("cross-validation has no fold with both classes; give more texts, or the strength itself (--C)")
    return settings[int(np.argmin(losses))]


def ledoit_wolf(layers: Sequence[Load]) -> float:
    """Ledoit and Wolf's shrinkage of the covariance within classes, averaged over `layers`."""
    return float(np.mean([auto_shrinkage(resid, labels) for resid, labels, _ in (load() for load in layers)]))


def random_label_auroc(train: Floats, labels: Labels, test: Floats, test_labels: Labels, *, setting: Setting) -> float:
    """AUROC of a probe fitted to `labels` that somebody shuffled: what the same machinery finds where nothing is."""
    return auroc(fit_direction(train, labels, setting).logit(test), test_labels)


def random_direction_auroc(test: Floats, test_labels: Labels, *, seed: int) -> float:
    """AUROC of one isotropic random direction, the better of its two signs: what any direction would read."""
    direction = np.random.default_rng(seed).standard_normal(test.shape[1])
    found = auroc(test.astype(np.float64) @ direction, test_labels)
    return max(found, 1.0 - found)
