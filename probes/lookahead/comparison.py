"""Who sees it coming: the look-ahead probe and a probe of finished texts on the same held-out states.

AUROC for the window that begins 0, 5 or 10 tokens after the token that was read. The best layer of each read-out is
chosen on the calibration prompts and reported on the test prompts, with 95% intervals that take the states of a prompt
as one cluster; differences are paired, state by state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.lookahead.prompts import Side
from probes.lookahead.samples import Sample
from probes.measure.intervals import Interval, auroc_gain, auroc_interval
from probes.measure.metrics import auroc, brier, ece
from probes.methods.fit import Labels, Logits
from steering.probe import Probe

OWN, OTHER = "this probe", "end of text"


@dataclass(frozen=True)
class Comparison:
    """AUROC on the test prompts: read-out -> layer -> tokens of warning -> figure."""

    found: dict[str, dict[int, dict[int, float]]]
    chosen: dict[str, int]
    """The layer of each read-out with the best AUROC on the calibration prompts, without warning."""
    states: dict[int, tuple[int, float]]
    """Tokens of warning -> labelled test states and the share of them with the concept."""
    prompts: int
    """That the test states come from."""
    intervals: dict[int, dict[str, Interval]]
    """Tokens of warning -> read-out -> that of its AUROC at its chosen layer."""
    gains: dict[int, tuple[float, Interval]]
    """Tokens of warning -> AUROC of this probe less that of the other, each at its layer; empty without another."""

    def best(self) -> dict[int, dict[str, float]]:
        """Tokens of warning -> read-out -> AUROC at its chosen layer; none where the states lack a class."""
        return {
            warning: {
                name: by_layer[self.chosen[name]][warning]
                for name, by_layer in self.found.items()
                if not math.isnan(by_layer[self.chosen[name]][warning])
            }
            for warning in self.states
        }

    def lines(self) -> Iterator[str]:
        """A table for a terminal."""
        for warning, row in self.best().items():
            count, rate = self.states[warning]
            figures = ", ".join(
                f"{name} {value:.3f} {_brackets(self.intervals[warning][name])} (layer {self.chosen[name]})"
                for name, value in row.items()
            )
            gain = f", difference {_signed(*self.gains[warning])}" if len(row) > 1 else ""
            yield (
                f"{warning:2d} tokens of warning: AUROC {figures or 'unknown'}{gain}; {count} states of "
                f"{self.prompts} prompts, {rate:.1%} with the concept"
            )

    def as_json(self) -> dict[str, Any]:
        """For the file beside the artefact."""
        return {
            "auroc": self.found,
            "best_layer": self.chosen,
            "test_states": self.states,
            "test_prompts": self.prompts,
            "auroc_interval": self.intervals,
            "gain": self.gains,
        }


def compare_read_outs(probe: Probe, other: Probe | None, sample: Sample, warnings: Sequence[int]) -> Comparison:
    """Both read-outs at every layer that `probe` has; `other` may be None, and is left out if it has none of them."""
    probes = {OWN: probe} | ({} if other is None or not probe.layers.keys() & other.layers.keys() else {OTHER: other})
    found: dict[str, dict[int, dict[int, float]]] = {name: {} for name in probes}
    held: dict[str, dict[int, float]] = {name: {} for name in probes}
    for layer in sorted(probe.layers):
        resid = torch.from_numpy(sample.layer(layer))
        for name, read in probes.items():
            if layer in read.layers:
                logits = read.at(layer).logit(resid).numpy()
                found[name][layer] = {w: _auroc(logits, sample, "test", warning=w) for w in warnings}
                held[name][layer] = _auroc(logits, sample, "calibration")
    chosen = {name: max(by_layer, key=lambda layer: by_layer[layer]) for name, by_layer in held.items()}
    best = {
        name: read.at(chosen[name]).logit(torch.from_numpy(sample.layer(chosen[name]))).numpy()
        for name, read in probes.items()
    }
    states, intervals, gains = {}, {}, {}
    for warning in warnings:
        rows = sample.rows("test", warning=warning)
        own, groups = sample.labels(warning)[rows], sample.prompt[rows]
        states[warning] = len(own), float(own.mean()) if len(own) else float("nan")
        intervals[warning] = {name: auroc_interval(read[rows], own, groups=groups) for name, read in best.items()}
        if OTHER in best:
            gains[warning] = auroc_gain([best[OTHER][rows]], [best[OWN][rows]], own, groups=groups)
    prompts = len(np.unique(sample.prompt[sample.rows("test")]))
    return Comparison(found, chosen, states, prompts, intervals, gains)


def iteration_figures(probes: Sequence[Probe], sample: Sample) -> dict[str, dict[str, float]]:
    """Each probe on the held-out states of each round: AUROC, what it predicts against what happens, ECE, Brier.

    Means over the default layers; and what each later probe has more AUROC than the first, with its interval. On the
    states of round 2 the first probe has held its own bound, so where it steered its logit hardly varies, and what is
    left for it to tell apart is little.
    """
    figures: dict[str, dict[str, float]] = {}
    layers = [layer for layer in probes[0].manifest.default.layers if all(layer in probe.layers for probe in probes)]
    if not layers:
        return {}
    for turn in range(len(sample.rounds)):
        rows = sample.rows("test", turn=turn)
        labels, groups = sample.labels()[rows], sample.prompt[rows]
        logits: list[list[Logits]] = []
        for at, probe in enumerate(probes):
            found = []
            logits.append([])
            for layer in layers:
                read, resid = probe.at(layer), torch.from_numpy(sample.layer(layer)[rows])
                logits[at].append(read.logit(resid).numpy())
                found.append(_figures(logits[at][-1], read.probability(resid).numpy(), labels))
            means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
            figures[f"probe {at + 1} on states of round {turn + 1}"] = means
        for at in range(1, len(probes)):
            gain, (low, high) = auroc_gain(logits[0], logits[at], labels, groups=groups)
            figures[f"probe {at + 1} less probe 1 on states of round {turn + 1}"] = {
                "auroc": gain, "low": low, "high": high, "states": len(rows), "prompts": len(np.unique(groups)),
            }  # fmt: skip
    return figures


def _figures(logits: Logits, probability: Logits, labels: Labels) -> dict[str, float]:
    return {
        "auroc": auroc(logits, labels),
        "predicted": float(probability.mean()),
        "happens": float(labels.mean()),
        "ece": ece(probability, labels),
        "brier": brier(probability, labels),
    }


def _auroc(logits: Logits, sample: Sample, side: Side, *, warning: int = 0) -> float:
    rows = sample.rows(side, warning=warning)
    return auroc(logits[rows], sample.labels(warning)[rows])


def _brackets(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _signed(gain: float, interval: Interval) -> str:
    return f"{gain:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
