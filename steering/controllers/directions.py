"""The directions that controllers share, all pointing to the side the probe's default bounds allow (`probe.toward`).

    mean       v = mean of the class steered toward - mean of the other    difference of means, CAA (2312.06681)
    contrast   v = mean over pairs of that difference, at the last token   ActAdd (2308.10248) from one pair
    weight     v = +- resid_norm * w / ||w||                               the probe's own normal, as long as a residual

"mean" is as long as the classes are apart, "contrast" as the pairs are; a probe's weight has no such length, so it
gets that of the stream and wants a coefficient far below 1. The two need not point the same way: a mean difference
includes what merely goes along with the concept, a probe's weight what helps to tell it apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steering.controllers.base import Source
from steering.errors import UnsupportedSteering
from steering.probe import Probe


@dataclass(frozen=True, eq=False)
class PerLayer:
    """One float32 tensor per layer, copied once to every device it is asked for on."""

    values: Mapping[int, Tensor]
    _copies: dict[tuple[int, torch.device, torch.dtype], Tensor] = field(default_factory=dict, init=False, repr=False)

    def at(self, layer: int, like: Tensor) -> Tensor:
        """The tensor of `layer` on the device and in the dtype of `like`."""
        key = (layer, like.device, like.dtype)
        if key not in self._copies:
            self._copies[key] = self.values[layer].to(like)
        return self._copies[key]


def means(probe: Probe, layer: int) -> tuple[Tensor, Tensor]:
    """(source, target): the class means away from and on the allowed side, (hidden_size,) float32 each.

    Raises UnsupportedSteering when the probe carries no means, or when its default bounds are a band.
    """
    found = probe.group("mean", layer)
    if probe.toward == "positive":
        return found["negative"], found["positive"]
    return found["positive"], found["negative"]


def vector(probe: Probe, layer: int, source: Source) -> Tensor:
    """v as above, (hidden_size,) float32. Raises UnsupportedSteering when the probe lacks what it is made of."""
    if source == "mean":
        away, toward = means(probe, layer)
        return toward - away
    if source == "contrast":
        return probe.group("contrast", layer)["vector"]
    sign = 1.0 if probe.toward == "positive" else -1.0
    fitted = probe.at(layer)
    return sign * fitted.resid_norm * fitted.direction


def unit_vector(probe: Probe, layer: int, source: Source) -> Tensor:
    """v / ||v||. Raises UnsupportedSteering also for a vector of length zero."""
    return _unit(vector(probe, layer, source), probe, layer, source)


def axis(probe: Probe, layer: int, source: Source) -> Tensor:
    """v / ||v|| up to its sign: what a rule needs to which both sides are alike, also of a probe with a band.

    Raises UnsupportedSteering as `unit_vector` does, but for the band.
    """
    if source == "weight":
        return probe.at(layer).direction
    if source == "mean":
        found = probe.group("mean", layer)
        return _unit(found["positive"] - found["negative"], probe, layer, source)
    return _unit(probe.group("contrast", layer)["vector"], probe, layer, source)


def setpoints(probe: Probe, layers: Sequence[int], coefficient: float) -> tuple[PerLayer, PerLayer]:
    """v_k, the unit difference of means, and beta_k = coefficient * v_k . (mean of the class steered toward), by layer.

    Raises what `unit_vector` raises.
    """
    directions = {layer: unit_vector(probe, layer, "mean") for layer in layers}
    targets = {layer: coefficient * unit.dot(means(probe, layer)[1]) for layer, unit in directions.items()}
    return PerLayer(directions), PerLayer(targets)


def _unit(found: Tensor, probe: Probe, layer: int, source: Source) -> Tensor:
    length = found.norm()
    if not float(length) > 0:
        raise UnsupportedSteering(
            f"the {source} vector of probe {probe.id} at layer {layer} is zero, so it points nowhere; "
            "choose another layer or source",
            param="source",
        )
    unit: Tensor = found / length
    return unit
