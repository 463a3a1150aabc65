"""What a card reports: the manifest, and what is worth telling beyond it, which `card.json` keeps beside the artefact.

With both a card can be made again at any time, by a later release or after a causal screen, without the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from probes.harvest.shards import Pooling, Tally
from probes.measure.reliability import ReliabilityBin
from probes.texts.corpus import CorpusReport
from steering.manifest import Manifest
from steering.probe import Probe


class Extras(BaseModel):
    """What a card tells beyond the manifest. All of it is optional: what is absent is not on the page."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    schema_version: Literal[1] = 1
    calibration_auroc: Mapping[int, float] = {}
    """Per layer, on the calibration texts: the figure that choices were allowed to look at."""
    tallies: Mapping[str, Tally] = {}
    """Texts and tokens read: `train`, `calibration`, `test`, each out-of-domain set by its name, `pairs-<name>`."""
    poolings: Mapping[Pooling, tuple[float, float]] = {}
    """Mean AUROC of the default layers on the calibration texts, read as fitted and at the last token."""
    refused: Mapping[int, str] = {}
    """Layers that were left out, and why."""
    dropped: int = 0
    """Training texts left out because they stand in another file."""
    command: str = ""
    carried: Mapping[str, str] = {}
    """Groups every layer carries, and what each is for."""
    reliability: Mapping[int, tuple[ReliabilityBin, ...]] = {}
    """Per layer, on the in-domain test texts after calibration; empty bins left out."""
    corpus_reports: Mapping[str, CorpusReport] = {}
    """Per file that was read, what was found in it."""


class Card(Extras):
    """All that the page reports."""

    manifest: Manifest

    @property
    def extras(self) -> Extras:
        """What `card.json` keeps."""
        return Extras.model_validate({name: getattr(self, name) for name in Extras.model_fields})


def card_from_probe(probe: Probe, extras: Extras | None = None) -> Card:
    """The card of a probe, whoever made it: its manifest, and `extras` where there are any."""
    known = extras or Extras()
    return Card.model_validate(
        {name: getattr(known, name) for name in Extras.model_fields} | {"manifest": probe.manifest}
    )


def best_layer(card: Card) -> int | None:
    """The layer whose figures come first: the highest AUROC on the calibration texts; the test texts do not choose.

    Where nothing is known of the calibration texts, the middle one of the default layers. None without any figures.
    """
    measured = {layer for layer, report in card.manifest.metrics.items() if report.test is not None}
    known = {layer: value for layer, value in card.calibration_auroc.items() if layer in measured}
    if known:
        return max(known, key=lambda layer: (known[layer], -layer))
    candidates = sorted(measured & set(card.manifest.default.layers)) or sorted(measured)
    return candidates[len(candidates) // 2] if candidates else None
