"""What differs between two probes: manifest fields, layers, and the numbers of each layer they share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from steering.artefact import content_sha256
from steering.probe import LayerProbe, Probe

ABSENT = "-"


@dataclass(frozen=True)
class LayerDifference:
    """One layer that both have, second minus first."""

    layer: int
    cosine: float | None
    """Of the weights; None when their widths differ."""
    norm_ratio: float
    """||weight|| of the second over that of the first"""
    bias: float
    scale: float
    """Calibration slope"""
    shift: float
    """Calibration intercept"""
    tensors: list[str]
    """Of what else the layer carries: the tensors that are not the same bits, or that one has alone."""

    @property
    def same(self) -> bool:
        """Whether all numbers are the same bits."""
        return not self.tensors


@dataclass(frozen=True)
class Difference:
    """Everything in which two probes differ."""

    ids: tuple[str, str]
    content: tuple[str, str]
    """SHA-256 over the numbers of each."""
    fields: dict[str, tuple[Any, Any]]
    """Dotted name -> the two values, for the manifest fields that differ; ABSENT where one has none."""
    layers: list[LayerDifference]
    only: tuple[list[int], list[int]]
    """Layers that the first, and the second, has alone."""

    @property
    def same(self) -> bool:
        """Whether the two are one and the same probe: all numbers and all that is said of them."""
        return not self.fields and self.content[0] == self.content[1]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with `same`."""
        return {"same": self.same, "same_numbers": self.content[0] == self.content[1], **asdict(self)}


def compare(first: Probe, second: Probe) -> Difference:
    """How `second` differs from `first`. The hashes of files are left out: the numbers are compared themselves."""
    flat = [dict(_flatten(probe.manifest.model_dump(mode="json", exclude={"files"}))) for probe in (first, second)]
    names = sorted(flat[0].keys() | flat[1].keys())
    pairs = {name: (flat[0].get(name, ABSENT), flat[1].get(name, ABSENT)) for name in names}
    shared = sorted(first.layers.keys() & second.layers.keys())
    return Difference(
        ids=(first.id, second.id),
        content=(content_sha256(first), content_sha256(second)),
        fields={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        layers=[_layer(layer, first.at(layer), second.at(layer)) for layer in shared],
        only=(sorted(first.layers.keys() - set(shared)), sorted(second.layers.keys() - set(shared))),
    )


def _layer(layer: int, first: LayerProbe, second: LayerProbe) -> LayerDifference:
    norms = float(first.weight.double().norm()), float(second.weight.double().norm())
    comparable = first.weight.shape == second.weight.shape
    return LayerDifference(
        layer=layer,
        cosine=float(first.weight.double().dot(second.weight.double())) / math.prod(norms) if comparable else None,
        norm_ratio=norms[1] / norms[0],
        bias=second.bias - first.bias,
        scale=second.calibration[0] - first.calibration[0],
        shift=second.calibration[1] - first.calibration[1],
        tensors=_unequal(first, second),
    )


def _unequal(first: LayerProbe, second: LayerProbe) -> list[str]:
    sides = [_bits(side) for side in (first, second)]
    return sorted(name for name in sides[0].keys() | sides[1].keys() if sides[0].get(name) != sides[1].get(name))


def _bits(layer: LayerProbe) -> dict[str, object]:
    tensors = {
        "weight": layer.weight,
        "quantiles.negative": layer.quantiles_negative,
        "quantiles.positive": layer.quantiles_positive,
        **layer.fitted,
    }
    found: dict[str, object] = {
        name: (tuple(tensor.shape), tensor.contiguous().numpy().tobytes())
        for name, tensor in tensors.items()
        if tensor is not None
    }
    return found | {"bias": layer.bias, "calibration": layer.calibration, "resid_norm": layer.resid_norm}


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of the leaves; a list is a leaf, since its order and length are its meaning."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
