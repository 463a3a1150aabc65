"""One layer from activations to a measured read-out: fit on train, calibrate on calibration, measure on test.

Each of the three sees texts the others do not. What is measured is what is stored: float32 weights and calibration.
What a layer carries for metrics and controllers (`probes/fitting/`) is fitted on train alone, with the same pooling.
Calibration and test are read with the pooling of the fit: with all, a figure is over tokens, as the probe is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from probes.fitting.samples import Toward
from probes.fitting.table import fit_groups
from probes.harvest.shards import Floats, Pooling
from probes.measure.calibration import IDENTITY, Calibration, Wide, isotonic, platt
from probes.measure.intervals import auroc_interval, ece_interval
from probes.measure.metrics import accuracy, auroc, brier, ece
from probes.measure.minimal_pairs import pair_metrics
from probes.measure.reliability import ReliabilityBin, reliability
from probes.methods.fit import random_direction_auroc, random_label_auroc
from probes.methods.samples import Labels
from probes.methods.table import Setting, fit_direction
from probes.training.samples import Harvested, Sample, Texts, sample
from steering.manifest import LayerMetrics, LayerReport
from steering.probe import QUANTILES, LayerProbe


@dataclass(frozen=True, eq=False)
class FittedLayer:
    """A layer's read-out, its figures, and its AUROC on the calibration texts (the one that choices may look at)."""

    probe: LayerProbe
    report: LayerReport
    calibration_auroc: float
    reliability: tuple[ReliabilityBin, ...]
    """On the test texts, after calibration."""


def fit_layer(
    data: Harvested,
    layer: int,
    pooling: Pooling,
    *,
    setting: Setting,
    seed: int,
    carry: tuple[str, ...] = (),
    toward: Toward = "negative",
) -> FittedLayer:
    """Fit, calibrate and measure one layer, and fit what it carries: class means, metric and the groups of `carry`.

    `toward` is the class that groups with a side lead to. Raises FitError, with the layer's number left to the caller,
    when the layer does not read the concept at all or a group cannot be fitted.
    """
    train, held, test = (sample(part, layer, pooling) for part in (data.train, data.calibration, data.test))
    affine = fit_direction(train.resid, train.labels, setting)
    held_logits, test_logits = affine.logit(held.resid), affine.logit(test.resid)
    calibration, steps = platt(held_logits, held.labels), isotonic(held_logits, held.labels)

    def figures(found: Sample, logits: Wide) -> LayerMetrics:
        return measure(logits, found.labels, calibration, steps=steps, groups=found.groups, seed=seed)

    others = {name: sample(part, layer, pooling) for name, part in data.out_of_domain.items()}
    report = LayerReport(
        test=figures(test, test_logits),
        out_of_domain={name: figures(found, affine.logit(found.resid)) for name, found in others.items()},
        pairs={
            name: pair_metrics(_by_text(affine.logit, sample(part, layer, pooling)), part.corpus)
            for name, part in data.pairs.items()
        },
        random_label_auroc=random_label_auroc(
            train.resid, train.shuffled(seed=seed + layer), test.resid, test.labels, setting=setting
        ),
        random_direction_auroc=random_direction_auroc(test.resid, test.labels, seed=seed + layer),
    )
    probe = LayerProbe(
        weight=torch.from_numpy(affine.weight),
        bias=affine.bias,
        calibration=(calibration.scale, calibration.shift),
        resid_norm=float(np.linalg.norm(train.resid.astype(np.float64), axis=1).mean()),
        quantiles_negative=_percentiles(held_logits[held.labels == 0]),
        quantiles_positive=_percentiles(held_logits[held.labels == 1]),
        fitted=_tensors(fit_groups(train.resid, train.by_row(), carry, toward=toward)),
    )
    curve = reliability(calibration.probability(test_logits), test.labels)
    return FittedLayer(probe, report, auroc(held_logits, held.labels), curve)


def measure(
    logits: Wide,
    labels: Labels,
    calibration: Calibration,
    *,
    steps: Callable[[Wide], Wide] | None = None,
    groups: Texts | None = None,
    seed: int = 0,
) -> LayerMetrics:
    """All figures of one read-out on one test set, (rows,) each, before and after calibration.

    `steps` is the isotonic map, for comparison. Rows of one of `groups` are not taken to be independent; `seed` is of
    the bootstrap.
    """
    after, before = calibration.probability(logits), IDENTITY.probability(logits)
    stepped = None if steps is None else steps(logits)
    return LayerMetrics(
        n=len(labels),
        auroc=auroc(logits, labels),
        accuracy=accuracy(after, labels),
        brier=brier(after, labels),
        ece=ece(after, labels),
        brier_uncalibrated=brier(before, labels),
        ece_uncalibrated=ece(before, labels),
        auroc_interval=auroc_interval(logits, labels, groups=groups),
        ece_interval=ece_interval(after, labels, groups=groups, seed=seed),
        brier_isotonic=None if stepped is None else brier(stepped, labels),
        ece_isotonic=None if stepped is None else ece(stepped, labels),
    )


def compare_poolings(
    data: Harvested, poolings: tuple[Pooling, ...], layers: list[int], *, choose: Callable[[Pooling], Setting]
) -> dict[Pooling, tuple[float, float]]:
    """Per pooling the mean AUROC over `layers` on the *calibration* texts: (read as fitted, read at the last token).

    The first decides. It is fair to "mean" though steering acts on one token at a time: the read-out is affine, so the
    logit of a mean is the mean of its tokens' logits, and a bound kept at every token is kept by the pooled read-out.
    The second says how well a single token's residual is read; it needs 'last' among the harvested poolings. Test texts
    are not looked at.
    """
    found: dict[Pooling, tuple[float, float]] = {}
    for pooling in poolings:
        setting = choose(pooling)
        pairs = []
        for layer in layers:
            train = sample(data.train, layer, pooling)
            affine = fit_direction(train.resid, train.labels, setting)
            read = (sample(data.calibration, layer, as_read) for as_read in (pooling, "last"))
            pairs.append([auroc(affine.logit(held.resid), held.labels) for held in read])
        own, at_last = np.mean(pairs, axis=0)
        found[pooling] = (float(own), float(at_last))
    return found


def _by_text(logit: Callable[[Floats], Wide], found: Sample) -> Wide:
    """(texts,): the mean logit of each text's rows."""
    count = len(found.corpus)
    summed = np.bincount(found.texts, weights=logit(found.resid), minlength=count)
    return np.asarray(summed / np.bincount(found.texts, minlength=count))


def _tensors(groups: Mapping[str, Floats]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in groups.items()}


def _percentiles(logits: Wide) -> torch.Tensor:
    """(101,) float32: the 0th to the 100th percentile."""
    ranks: Floats = np.percentile(logits, np.linspace(0, 100, QUANTILES)).astype(np.float32)
    return torch.from_numpy(ranks)
