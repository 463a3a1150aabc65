"""A probe written in another tool's format, and what that format cannot hold.

Control vectors and steering vectors are added to every token at a strength their user chooses, whatever the probe
reads there, so a bound becomes a push. Written is, per layer, with a positive strength meaning more of the concept,

    weight   shift * w / (w . w),   shift = mean logit of texts with the concept - mean logit of those without
    mean     mean residual with the concept - mean without        (needs the group `mean`)

Both are as long as the classes are apart: strength -1 moves the average text with the concept to where the probe reads
the average text without it. A probe without quantiles (an imported one) has no such length, and its w is written as it
stands, so that what was imported is handed out unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from probes.errors import ExchangeError
from probes.exchange import control_vector, liseco, steering_vectors
from probes.exchange.foreign import write_aside
from steering.artefact import content_sha256
from steering.probe import Probe, ranges

Format = Literal["gguf", "steering-vectors", "liseco"]
Direction = Literal["weight", "mean"]

_ALWAYS = ("the calibration and the quantiles", "class means, metric and what controllers are made from", "all figures")


def hand_out(
    probe: Probe, target: Path, *, kind: Format, layers: Sequence[int], direction: Direction = "weight"
) -> list[str]:
    """Write `probe` at `layers` to `target` (a file; for liseco a new folder) and return what is lost, in words.

    Raises ExchangeError when the target exists, when no layer has a place in the format, when the probe has no class
    means for `mean`, and when a layer's logit is not higher on texts with the concept. Raises UnknownProbe for a layer
    the probe has no read-out of.
    """
    chosen, lost = _placed(probe, layers, kind)
    if kind == "liseco":
        if direction == "mean":
            raise ExchangeError("the liseco format holds read-outs, not vectors; leave --direction out")
        weights = {layer: probe.at(layer).weight.numpy() for layer in chosen}
        biases = {layer: probe.at(layer).bias for layer in chosen}
        write_aside(target, lambda path: liseco.write_liseco(path, weights, biases, model=_file_name(probe)))
        return [*lost, *_ALWAYS, "the default bounds"]
    vectors = {layer: vector(probe, layer, direction) for layer in chosen}
    lost += ["the bias and the bounds: the vector is added to every token, whatever the probe reads there", *_ALWAYS]
    if kind == "steering-vectors":
        write_aside(target, lambda path: steering_vectors.write_steering_vectors(path, vectors))
        return lost
    write_aside(
        target,
        lambda path: control_vector.write_control_vector(
            path, vectors, architecture=probe.manifest.base_model.model_type, said=_said(probe, direction), lost=lost
        ),
    )
    return lost


def vector(probe: Probe, layer: int, direction: Direction) -> NDArray[np.float32]:
    """The vector of one layer as above, (hidden_size,) float32."""
    if direction == "mean":
        means = probe.group("mean", layer)
        difference: NDArray[np.float32] = (means["positive"] - means["negative"]).numpy()
        return difference
    fitted = probe.at(layer)
    if fitted.quantiles_negative is None or fitted.quantiles_positive is None:
        return np.asarray(fitted.weight.numpy(), dtype=np.float32)
    shift = float(fitted.quantiles_positive.double().mean() - fitted.quantiles_negative.double().mean())
    if not shift > 0:
        raise ExchangeError(
            f"at layer {layer} the logit of {probe.id} is not higher on texts with the concept (difference "
            f"{shift:.3g}), so its vector would mean nothing; leave the layer out with --layers"
        )
    weight = fitted.weight.double().numpy()
    return np.asarray(shift * weight / (weight @ weight), dtype=np.float32)


def _placed(probe: Probe, layers: Sequence[int], kind: Format) -> tuple[list[int], list[str]]:
    """The layers that have a place in the format, rising, and what is said of the one that has none."""
    chosen = sorted(set(layers))
    for layer in chosen:
        probe.at(layer)
    none, why = {
        "gguf": (0, "llama.cpp refuses a vector after the first block"),
        "liseco": (
            probe.manifest.base_model.num_hidden_layers - 1,
            "its number stands for the stream after the final norm",
        ),
        "steering-vectors": (-1, ""),
    }[kind]
    placed = [layer for layer in chosen if layer != none]
    if not placed:
        raise ExchangeError(f"layer {ranges(chosen)} has no place in this format ({why}); choose others with --layers")
    return placed, [] if placed == chosen else [f"layer {none}: {why}"]


def _said(probe: Probe, direction: Direction) -> dict[str, str]:
    base = probe.manifest.base_model
    length = "as long as the classes are apart" if direction == "mean" or _measured(probe) else "as imported"
    return {
        "probe": probe.id,
        "content_sha256": content_sha256(probe),
        "model": f"{base.id} {base.revision}",
        "concept": probe.manifest.concept,
        "positive_is": probe.manifest.positive_is,
        "direction": direction,
        "length": length,
    }


def _measured(probe: Probe) -> bool:
    return all(layer.quantiles_negative is not None for layer in probe.layers.values())


def _file_name(probe: Probe) -> str:
    return Path(probe.manifest.base_model.id).name
