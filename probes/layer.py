"""One layer from activations to a measured read-out: fit on train, calibrate on calibration, measure on test.

Each of the three sees texts the others do not. What is measured is what is stored: float32 weights and calibration.
What a layer carries for metrics and controllers (`probes/fitting/`) is fitted on train alone, with the same pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from probes.activations import Activations
from probes.calibration import IDENTITY, Calibration, platt
from probes.fit import Affine, Labels, Logits, fit_affine, random_direction_auroc, random_label_auroc
from probes.fitting.samples import Toward
from probes.fitting.table import fit_groups
from probes.metrics import accuracy, auroc, brier, ece
from probes.shards import Floats, Pooling
from steering.manifest import LayerMetrics, LayerReport
from steering.probe import QUANTILES, LayerProbe


@dataclass(frozen=True, eq=False)
class Harvested:
    """Activations of everything a probe is trained and measured on; no text stands in two of them."""

    train: Activations
    calibration: Activations
    test: Activations
    out_of_domain: Mapping[str, Activations]


@dataclass(frozen=True, eq=False)
class FittedLayer:
    """A layer's read-out, its figures, and its AUROC on the calibration texts (the one that choices may look at)."""

    probe: LayerProbe
    report: LayerReport
    calibration_auroc: float


def fit_layer(
    data: Harvested,
    layer: int,
    pooling: Pooling,
    *,
    c: float,
    seed: int,
    carry: tuple[str, ...] = (),
    toward: Toward = "negative",
) -> FittedLayer:
    """Fit, calibrate and measure one layer, and fit what it carries: class means, metric and the groups of `carry`.

    `toward` is the class that groups with a side lead to. Raises FitError, with the layer's number left to the caller,
    when the layer does not read the concept at all or a group cannot be fitted.
    """
    train = data.train.layer(layer, pooling)
    train_labels = data.train.corpus.labels
    affine = fit_affine(train, train_labels, c=c)
    held, held_labels = _logits(affine, data.calibration, layer, pooling)
    calibration = platt(held, held_labels)

    test = data.test.layer(layer, pooling)
    test_labels = data.test.corpus.labels
    report = LayerReport(
        test=measure(affine.logit(test), test_labels, calibration),
        out_of_domain={
            name: measure(*_logits(affine, activations, layer, pooling), calibration)
            for name, activations in data.out_of_domain.items()
        },
        random_label_auroc=random_label_auroc(train, train_labels, test, test_labels, c=c, seed=seed + layer),
        random_direction_auroc=random_direction_auroc(test, test_labels, seed=seed + layer),
    )
    probe = LayerProbe(
        weight=torch.from_numpy(affine.weight),
        bias=affine.bias,
        calibration=(calibration.scale, calibration.shift),
        resid_norm=float(np.linalg.norm(train.astype(np.float64), axis=1).mean()),
        quantiles_negative=_percentiles(held[held_labels == 0]),
        quantiles_positive=_percentiles(held[held_labels == 1]),
        fitted={
            name: torch.from_numpy(value)
            for name, value in fit_groups(train, data.train.corpus, carry, toward=toward).items()
        },
    )
    return FittedLayer(probe, report, auroc(held, held_labels))


def measure(logits: Logits, labels: Labels, calibration: Calibration) -> LayerMetrics:
    """All figures of one read-out on one test set, before and after calibration."""
    after, before = calibration.probability(logits), IDENTITY.probability(logits)
    return LayerMetrics(
        n=len(labels),
        auroc=auroc(logits, labels),
        accuracy=accuracy(after, labels),
        brier=brier(after, labels),
        ece=ece(after, labels),
        brier_uncalibrated=brier(before, labels),
        ece_uncalibrated=ece(before, labels),
    )


def compare_poolings(
    data: Harvested, poolings: tuple[Pooling, ...], layers: list[int], *, penalty: Callable[[Pooling], float]
) -> dict[Pooling, tuple[float, float]]:
    """Per pooling the mean AUROC over `layers` on the *calibration* texts: (read as fitted, read at the last token).

    The first decides. It is fair to "mean" though steering acts on one token at a time: the read-out is affine, so the
    logit of a mean is the mean of its tokens' logits, and a bound kept at every token is kept by the pooled read-out.
    The second says how well a single token's residual is read; it needs 'last' among the harvested poolings. Test texts
    are not looked at.
    """
    labels = data.train.corpus.labels
    found: dict[Pooling, tuple[float, float]] = {}
    for pooling in poolings:
        c = penalty(pooling)
        pairs = []
        for layer in layers:
            affine = fit_affine(data.train.layer(layer, pooling), labels, c=c)
            pairs.append([auroc(*_logits(affine, data.calibration, layer, read)) for read in (pooling, "last")])
        own, at_last = np.mean(pairs, axis=0)
        found[pooling] = (float(own), float(at_last))
    return found


def _logits(affine: Affine, activations: Activations, layer: int, pooling: Pooling) -> tuple[Logits, Labels]:
    return affine.logit(activations.layer(layer, pooling)), activations.corpus.labels


def _percentiles(logits: Logits) -> torch.Tensor:
    """(101,) float32: the 0th to the 100th percentile."""
    ranks: Floats = np.percentile(logits, np.linspace(0, 100, QUANTILES)).astype(np.float32)
    return torch.from_numpy(ranks)
