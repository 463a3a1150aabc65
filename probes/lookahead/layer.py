"""One layer of a look-ahead probe: weighted fit, calibration and figures on the model's own states.

Train, calibration and test are sides of the prompts. The probability is calibrated on single states at their natural
base rate, unlike that of a probe of finished texts: it is meant to say how often a window that follows such a state
shows the concept, by the labeller, on prompts like these. How well it does is measured; with few prompts its Brier
score need not beat the base rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from probes.errors import FitError
from probes.fitting.means import fit_means
from probes.fitting.metric import fit_metric
from probes.fitting.samples import Toward
from probes.harvest.activations import Activations
from probes.harvest.shards import Floats, Pooling
from probes.lookahead.mixture import Weights, fit_weighted, mixture_weights
from probes.lookahead.samples import Sample
from probes.measure.calibration import IDENTITY, isotonic, platt
from probes.measure.metrics import auroc, log_loss
from probes.measure.reliability import ReliabilityBin, reliability
from probes.methods.fit import FOLDS, PENALTIES, Affine, Labels, Logits, random_direction_auroc
from probes.training.layer import measure
from steering.manifest import LayerReport
from steering.probe import QUANTILES, LayerProbe


@dataclass(frozen=True, eq=False)
class CorpusStates:
    """The labelled corpus as it is read by the probe of finished texts."""

    train: Activations | None
    """None where the corpus has no share in the fit."""
    test: Activations
    pooling: Pooling


@dataclass(frozen=True, eq=False)
class AheadLayer:
    """A layer's read-out with its figures."""

    probe: LayerProbe
    report: LayerReport
    calibration_auroc: float
    """The figure that choices may look at."""
    reliability: tuple[ReliabilityBin, ...]
    """On the test side."""


def fit_ahead_layer(
    sample: Sample, corpus: CorpusStates, layer: int, *, share: float, c: float, seed: int, toward: Toward
) -> AheadLayer:
    """Fit on the train side and the corpus in the given proportion; calibrate and measure on the other sides.

    Intervals take the states of a prompt as one cluster. Raises FitError for a layer that sees nothing coming.
    """
    resid, labels = sample.layer(layer), sample.labels()
    train, held, test = (sample.rows(side) for side in ("train", "calibration", "test"))
    affine = _fit(resid[train], labels[train], corpus, layer, share=share, c=c)
    held_logits, test_logits = affine.logit(resid[held]), affine.logit(resid[test])
    if not auroc(held_logits, labels[held]) > 0.5:
        raise FitError(
            "on the calibration prompts a higher logit does not go with more of the concept; this layer does not see "
            "it coming, or the prompts are too few"
        )
    calibration = platt(held_logits, labels[held])
    shuffled = np.random.default_rng(seed + layer).permutation(labels[train])
    chance = _fit(resid[train], shuffled, corpus, layer, share=0.0, c=c)
    finished = corpus.test.layer(layer, corpus.pooling)
    report = LayerReport(
        test=measure(
            test_logits,
            labels[test],
            calibration,
            steps=isotonic(held_logits, labels[held]),
            groups=sample.prompt[test],
            seed=seed,
        ),
        out_of_domain={"finished texts": measure(affine.logit(finished), corpus.test.corpus.labels, calibration)},
        random_label_auroc=auroc(chance.logit(resid[test]), labels[test]),
        random_direction_auroc=random_direction_auroc(resid[test], labels[test], seed=seed + layer),
    )
    negative, positive = (resid[train][labels[train] == label] for label in (0, 1))
    groups = fit_means(negative, positive, toward=toward) | fit_metric(negative, positive, toward=toward)
    probe = LayerProbe(
        weight=torch.from_numpy(affine.weight),
        bias=affine.bias,
        calibration=(calibration.scale, calibration.shift),
        resid_norm=float(np.linalg.norm(resid[train].astype(np.float64), axis=1).mean()),
        quantiles_negative=_percentiles(held_logits[labels[held] == 0]),
        quantiles_positive=_percentiles(held_logits[labels[held] == 1]),
        fitted={name: torch.from_numpy(value) for name, value in groups.items()},
    )
    curve = reliability(calibration.probability(test_logits), labels[test])
    return AheadLayer(probe, report, auroc(held_logits, labels[held]), curve)


def choose_c(
    sample: Sample,
    corpus: CorpusStates,
    layers: Sequence[int],
    *,
    share: float,
    grid: Sequence[float] = PENALTIES,
) -> float:
    """The C of `grid` with the least log loss on held-out prompts, both classes of their states weighted alike.

    Folds are by prompt within the train side; the corpus is in every fold's fit. Ties go to the smaller C.
    """
    rows = sample.rows("train")
    labels, folds = sample.labels()[rows], sample.folds(FOLDS)[rows]
    losses = np.zeros(len(grid))
    for layer in layers:
        resid = sample.layer(layer)[rows]
        for fold in np.unique(folds):
            out = folds == fold
            if len(np.unique(labels[out])) < 2 or len(np.unique(labels[~out])) < 2:
                continue
            for at, c in enumerate(grid):
                fitted = _fit(resid[~out], labels[~out], corpus, layer, share=share, c=c)
                probability = IDENTITY.probability(fitted.logit(resid[out]))
                losses[at] += sum(
                    log_loss(probability[labels[out] == label], labels[out][labels[out] == label]) for label in (0, 1)
                )
    return float(grid[int(np.argmin(losses))])


def _fit(resid: Floats, labels: Labels, corpus: CorpusStates, layer: int, *, share: float, c: float) -> Affine:
    if share == 0 or corpus.train is None:
        return fit_weighted(resid, labels, mixture_weights(labels, labels, share=0.0)[0], c=c)
    texts, theirs = corpus.train.layer(layer, corpus.pooling), corpus.train.corpus.labels
    own, corpus_weights = mixture_weights(labels, theirs, share=share)
    weights: Weights = np.concatenate([own, corpus_weights])
    return fit_weighted(np.concatenate([resid, texts]), np.concatenate([labels, theirs]), weights, c=c)


def _percentiles(logits: Logits) -> torch.Tensor:
    """(101,) float32"""
    return torch.from_numpy(np.percentile(logits, np.linspace(0, 100, QUANTILES)).astype(np.float32))
