"""Probe: the frozen affine read-out of one concept that a fit leaves behind.

At each of its layers `logit = weight . resid + bias`, in raw activation coordinates (any scaler is folded in) and
float32. `P(concept) = sigmoid(a * logit + b)` is its calibration, fitted on data the weights never saw.
Saving and loading is `steering/artefact.py`; how a probe is fitted is the business of `probes/`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from steering.bounds import Bounds
from steering.errors import CorruptProbe, InvalidBounds, UnknownProbe, UnsupportedSteering
from steering.fitted import GROUPS, check_fitted
from steering.manifest import Manifest
from steering.slab import read_logit

QUANTILES = 101
_LARGEST = 1e9
"""Of a number of a read-out; squares of it are still far from the end of float32."""


@dataclass(frozen=True, eq=False)
class LayerProbe:
    """One layer's read-out; all tensors float32."""

    weight: Tensor
    """(hidden_size,)"""
    bias: float
    calibration: tuple[float, float] = (1.0, 0.0)
    """(a, b) of P(concept) = sigmoid(a * logit + b); a > 0"""
    resid_norm: float = math.nan
    """Mean ||resid|| over the training texts; tells how wide a slab the stored dtype can hold."""
    quantiles_negative: Tensor | None = None
    """(101,) percentiles of the logit on calibration texts without the concept"""
    quantiles_positive: Tensor | None = None
    """(101,) the same with the concept"""
    fitted: Mapping[str, Tensor] = field(default_factory=dict)
    """Statistics for metrics and controllers, `<group>.<part>` as in `steering.fitted`"""

    def logit(self, resid: Tensor) -> Tensor:
        """(..., hidden_size) -> (...), float32 whatever the dtype of `resid`."""
        weight = self.weight.to(resid.device)
        return read_logit(resid, weight, torch.tensor(self.bias, device=resid.device))

    def probability(self, resid: Tensor) -> Tensor:
        """Calibrated P(concept), (..., hidden_size) -> (...)."""
        scale, shift = self.calibration
        return torch.sigmoid(scale * self.logit(resid) + shift)

    @property
    def direction(self) -> Tensor:
        """The unit vector of `weight`, (hidden_size,)."""
        unit: Tensor = self.weight / self.weight.norm()
        return unit


@dataclass(frozen=True, eq=False)
class Probe:
    """A concept's read-outs at some layers of one model, with the manifest that says where they come from.

    Raises CorruptProbe for a wrong width, a number that is not finite, a calibration slope <= 0, quantiles that are not
    101 rising numbers, a zero weight, or layers that disagree with the manifest.
    """

    manifest: Manifest
    layers: Mapping[int, LayerProbe]

    def __post_init__(self) -> None:
        base = self.manifest.base_model
        if not self.layers:
            raise CorruptProbe(f"probe {self.id} has no layers; refit it")
        if set(self.layers) != set(self.manifest.metrics):
            raise CorruptProbe(
                f"probe {self.id} carries weights of layers {sorted(self.layers)} but its manifest reports "
                f"{sorted(self.manifest.metrics)}; the artefact was put together by hand or is damaged: refit it"
            )
        strangers = [layer for layer in self.manifest.default.layers if layer not in self.layers]
        if strangers:
            raise CorruptProbe(f"probe {self.id} names default layers {strangers} that it has no weights for")
        default = self.manifest.default
        try:
            Bounds(default.lower, default.upper, default.space)
        except InvalidBounds as error:
            raise CorruptProbe(f"probe {self.id} has default bounds that mean nothing ({error}); refit it") from None
        if default.space != "logit" and not self.manifest.calibrated:
            raise CorruptProbe(
                f"probe {self.id} was never calibrated, yet its default bounds are in '{default.space}'; "
                "import it again"
            )
        for layer, fitted in self.layers.items():
            where = f"probe {self.id}, layer {layer}"
            if not 0 <= layer < base.num_hidden_layers:
                raise CorruptProbe(f"{where}: its own model has layers 0 to {base.num_hidden_layers - 1} only")
            _check_layer(fitted, hidden_size=base.hidden_size, where=where)
            check_fitted(fitted.fitted, hidden_size=base.hidden_size, where=where)

    @property
    def id(self) -> str:
        """`name@version`"""
        return self.manifest.id

    @property
    def toward(self) -> Literal["negative", "positive"]:
        """The class its default bounds keep the stream on: what a controller without bounds steers toward.

        Raises UnsupportedSteering when the default is a band, which is on neither side.
        """
        default = self.manifest.default
        if (default.lower is None) == (default.upper is None):
            raise UnsupportedSteering(
                f"the default bounds of {self.id} are a band, so 'toward' has no meaning; use the slab controller",
                param="controller",
            )
        return "negative" if default.lower is None else "positive"

    def layers_with(self, group: str) -> list[int]:
        """The layers that have a group of `steering.fitted`, rising."""
        parts = [f"{group}.{part}" for part in GROUPS[group]]
        return sorted(layer for layer, read in self.layers.items() if all(part in read.fitted for part in parts))

    def carries(self, group: str) -> bool:
        """Whether every layer has the group."""
        return len(self.layers_with(group)) == len(self.layers)

    def group(self, group: str, layer: int) -> dict[str, Tensor]:
        """The parts of a fitted group at one layer. Raises UnsupportedSteering when the probe does not carry it."""
        fitted = self.at(layer).fitted
        try:
            return {part: fitted[f"{group}.{part}"] for part in GROUPS[group]}
        except KeyError:
            there = self.layers_with(group)
            raise UnsupportedSteering(
                f"probe {self.id} carries no '{group}' statistics at layer {layer}"
                + (f", only at layers {ranges(there)}; steer those" if there else "; train it again with them"),
                param="metric" if group == "metric" else "controller",
            ) from None

    def at(self, layer: int) -> LayerProbe:
        """The read-out of one layer. Raises UnknownProbe, naming the layers there are."""
        try:
            return self.layers[layer]
        except KeyError:
            raise UnknownProbe(
                f"probe {self.id} has no read-out at layer {layer}; it has layers {ranges(self.layers)}"
            ) from None


def _check_layer(fitted: LayerProbe, *, hidden_size: int, where: str) -> None:
    weight = fitted.weight
    if weight.shape != (hidden_size,):
        raise CorruptProbe(
            f"{where}: weight has shape {tuple(weight.shape)}, its manifest says hidden_size {hidden_size}; refit it"
        )
    if weight.dtype != torch.float32:
        raise CorruptProbe(f"{where}: weight is {weight.dtype}, artefacts hold float32; convert or refit it")
    scale, shift = fitted.calibration
    numbers = [fitted.bias, scale, shift, fitted.resid_norm]
    quantiles = [q for q in (fitted.quantiles_negative, fitted.quantiles_positive) if q is not None]
    finite = all(math.isfinite(number) for number in numbers) and all(
        bool(torch.isfinite(tensor).all()) for tensor in (weight, *quantiles)
    )
    if not finite:
        raise CorruptProbe(f"{where}: holds NaN or infinity; the fit diverged or the file is damaged: refit it")
    if not float(weight.norm()) > 0:
        raise CorruptProbe(f"{where}: weight is zero, so it reads nothing and cannot be projected on; refit it")
    absurd = [number for number in numbers if abs(number) > _LARGEST]
    if absurd or not 1 / _LARGEST <= float(weight.norm()) <= _LARGEST or 0 < scale < 1 / _LARGEST:
        raise CorruptProbe(
            f"{where}: a weight, bias, calibration or norm is so large or so small that float32 arithmetic on it would "
            "overflow; refit it"
        )
    if fitted.resid_norm < 0:
        raise CorruptProbe(f"{where}: resid_norm is negative; the file is damaged: refit it")
    if scale <= 0:
        raise CorruptProbe(f"{where}: calibration slope {scale} is not positive; the polarity is inverted: refit it")
    for quantile in quantiles:
        if quantile.shape != (QUANTILES,) or bool((quantile.diff() < 0).any()):
            raise CorruptProbe(f"{where}: quantiles are not {QUANTILES} rising numbers; refit it")


def named_layers(layers: Iterable[int]) -> str:
    """'layer 8' or 'layers 0-2, 5', for people to read."""
    listed = list(layers)
    return f"layer{'' if len(listed) == 1 else 's'} {ranges(listed)}"


def ranges(layers: Iterable[int]) -> str:
    """Layers for people to read: 0, 1, 2, 5 is '0-2, 5'."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
