"""Probes with made-up figures, from the barest to one that has everything a card can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from probes.card import Card, Extras, card_from_probe
from probes.harvest.shards import Tally
from probes.measure.reliability import ReliabilityBin
from probes.texts.corpus import CorpusReport
from steering import LanguageModel, Probe
from steering.manifest import (
    DatasetInfo,
    LayerMetrics,
    LayerReport,
    Lookahead,
    Manifest,
    Origin,
    PairMetrics,
    Screen,
    ScreenRow,
)


def metrics_of(auroc: float) -> LayerMetrics:
    """Figures with all intervals, each number told apart from the others."""
    return LayerMetrics(
        n=400,
        auroc=auroc,
        accuracy=auroc - 0.05,
        brier=0.11,
        ece=0.061,
        brier_uncalibrated=0.12,
        ece_uncalibrated=0.082,
        auroc_interval=(auroc - 0.02, min(1.0, auroc + 0.018)),
        ece_interval=(0.04, 0.09),
        brier_isotonic=0.105,
        ece_isotonic=0.053,
    )


def row_of(layers: list[int], role: str, effect: float, kl: float) -> ScreenRow:
    """A row whose ratios and differences follow from effect and KL."""
    return ScreenRow(
        layers=layers,
        role=role,
        effect=effect,
        effect_interval=(effect - 0.02, effect + 0.02),
        kl=kl,
        per_kl=effect / kl,
        per_kl_interval=((effect - 0.02) / kl, (effect + 0.02) / kl),
        placebo_effect=0.004,
        placebo_kl=kl / 2,
        difference=effect - 0.004,
        difference_interval=(effect - 0.03, effect + 0.02),
        beats_placebo=effect > 0.05,
    )


def full_manifest(plain: Manifest) -> Manifest:
    """`plain` (layers 0 to 3) with everything the manifest can hold but an origin."""
    reports = {
        layer: LayerReport(
            test=metrics_of(0.90 + 0.01 * layer),
            out_of_domain={"elsewhere": metrics_of(0.80 + 0.01 * layer)},
            pairs={"swaps": PairMetrics(n=60, accuracy=0.85, interval=(0.74, 0.92))},
            random_label_auroc=0.51,
            random_direction_auroc=0.56,
        )
        for layer in plain.metrics
    }
    rows = [row_of([layer], "single", 0.02 * layer, 0.01 + 0.01 * layer) for layer in plain.metrics]
    rows += [
        row_of([2], "growing", 0.04, 0.02),
        row_of([1, 2], "growing", 0.09, 0.03),
        row_of([0, 1, 2, 3], "all", 0.1, 0.2),
    ]
    screen = Screen(
        scorer="word list 1.0",
        metric="euclidean",
        lower=None,
        upper=0.1,
        space="probability",
        prompts=64,
        neutral=32,
        new_tokens=20,
        seed=0,
        prompts_sha256="a" * 64,
        rows=rows,
        chosen=[1, 2],
    )
    lookahead = Lookahead(
        horizon=10,
        labeller="tf-idf words",
        threshold=0.5,
        prompts=40,
        continuations=80,
        tokens=1600,
        corpus_share=0.25,
        iterations=2,
        auroc_by_warning={
            0: {"this probe": 0.71, "end of text": 0.64},
            5: {"this probe": 0.66, "end of text": 0.58},
            10: {"this probe": 0.61, "end of text": 0.55},
        },
    )
    counts = {part: {"0": 100, "1": 90} for part in ("train", "calibration", "test", "ood-elsewhere", "pairs-swaps")}
    words = {"test": 0.85, "elsewhere": 0.75, "pairs-swaps": 0.7}
    return plain.model_copy(
        update={
            "metrics": reports,
            "baselines": {"tf-idf words": words, "length": dict.fromkeys(words, 0.55)},
            "screen": screen,
            "causal": True,
            "lookahead": lookahead,
            "cosines": {"insult": dict.fromkeys(plain.metrics, 0.6)},
            "dataset": DatasetInfo(name="planted", sha256="b" * 64, licence="none", counts=counts, split="by hash"),
            "default": plain.default.model_copy(update={"layers": [1, 2]}),
        }
    )


def bins() -> tuple[ReliabilityBin, ...]:
    """Three bins of unequal size; the first is perfect."""
    return (
        ReliabilityBin(low=0.0, high=0.2, mean=0.1, observed=0.1, count=50, interval=(0.04, 0.21)),
        ReliabilityBin(low=0.4, high=0.6, mean=0.5, observed=0.7, count=10, interval=(0.40, 0.89)),
        ReliabilityBin(low=0.8, high=1.0, mean=0.9, observed=1.0, count=40, interval=(0.91, 1.0)),
    )


@pytest.fixture(scope="session")
def full_extras() -> Extras:
    """Everything `card.json` can hold."""
    tallies = {part: Tally(190, 2000, 3) for part in ("train", "calibration", "test", "elsewhere", "pairs-swaps")}
    return Extras(
        calibration_auroc={0: 0.90, 1: 0.91, 2: 0.95, 3: 0.94},
        tallies=tallies,
        poolings={"last": (0.91, 0.91), "mean": (0.95, 0.86)},
        refused={7: "the calibration slope is negative"},
        dropped=2,
        command="tiller probe train --data data.jsonl",
        carried={"mean": "the mean of each class"},
        reliability=dict.fromkeys(range(4), bins()),
        corpus_reports={
            "data.jsonl": CorpusReport("data.jsonl", 1000, {"0": 800, "1": 100}, duplicates=80, contradictory=10)
        },
    )


@pytest.fixture(scope="session")
def full_probe(lm: LanguageModel, make_probe: Callable[..., Probe]) -> Probe:
    """A random probe of four layers whose manifest has everything but an origin."""
    plain = make_probe(lm)
    return replace(plain, manifest=full_manifest(plain.manifest))


@pytest.fixture(scope="session")
def full_card(full_probe: Probe, full_extras: Extras) -> Card:
    """A card with every section but the origin."""
    return card_from_probe(full_probe, full_extras)


@pytest.fixture(scope="session")
def make_card(lm: LanguageModel, make_probe: Callable[..., Probe]) -> Callable[..., Card]:
    """make_card(**extras): the card of a probe whose manifest has the least a trained one can have."""
    plain = make_probe(lm)

    def make(**extras: Any) -> Card:
        return card_from_probe(plain, Extras(**extras))

    return make


@pytest.fixture(scope="session")
def imported_probe(lm: LanguageModel, make_probe: Callable[..., Probe]) -> Probe:
    """A probe without any figure, from another tool's file."""
    plain = make_probe(lm)
    origin = Origin(format="gguf", file="a_b.gguf", sha256="c" * 64, lost=["the scale of the vector"], bias=False)
    empty = LayerReport(test=None, random_label_auroc=None, random_direction_auroc=None)
    reports = dict.fromkeys(plain.manifest.metrics, empty)
    default = plain.manifest.default.model_copy(update={"upper": 0.0, "space": "logit"})
    update = {"metrics": reports, "origin": origin, "default": default}
    return replace(plain, manifest=plain.manifest.model_copy(update=update))
