"""The vectors of the package steering-vectors: `SteeringVector(layer_activations={layer: tensor}, layer_type=...)`.

The package has no file format; people `torch.save` the object or its `layer_activations`. Read are those two and what
is written here, a plain dict of tensors that opens without running anything:

    SteeringVector(**torch.load("toxicity.pt", weights_only=True))

Numbering: its layer is the 0-based decoder block whose output the vector is added to, as ours. Vectors of other places
in a block (`self_attn`, `mlp`, norms) are refused: they do not act on the residual stream after the block. Sign: adding
with a positive multiplier means more of the concept. The package itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from probes.errors import ExchangeError
from probes.exchange.foreign import NOT_SAID, Foreign, as_vector, sha256_of
from probes.exchange.pickled import load_tensors

FORMAT = "steering-vectors"
_CLASS = "steering_vectors.steering_vector.SteeringVector"
_BLOCK = "decoder_block"


class _Saved:
    """Stands in for their class, so that a saved object gives up its attributes and nothing of it runs."""


def read_steering_vectors(path: Path) -> Foreign:
    """Read a saved SteeringVector or its activations. Raises ExchangeError for anything else."""
    content = load_tensors(path, allowed=[(_Saved, _CLASS)])
    if isinstance(content, _Saved):
        content = vars(content)
    if not isinstance(content, dict):
        raise ExchangeError(
            f"{path.name} holds {type(content).__name__}, expected a SteeringVector or its tensors by layer"
        )
    if "layer_activations" in content:
        surplus = sorted(map(str, content.keys() - {"layer_activations", "layer_type"}))
        if surplus:
            raise ExchangeError(f"{path.name}: '{surplus[0]}' is no field of a SteeringVector")
        place = content.get("layer_type", _BLOCK)
        if place != _BLOCK:
            raise ExchangeError(
                f"{path.name} holds vectors for '{place}', expected '{_BLOCK}': only the output of a whole block is "
                "the residual stream that probes read"
            )
        content = content["layer_activations"]
    if not isinstance(content, dict) or not all(
        isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in content
    ):
        raise ExchangeError(f"{path.name}: the tensors are not numbered by layer (0, 1, 2, ...)")
    return Foreign(
        format=FORMAT,
        file=path.name,
        sha256=sha256_of([path]),
        weights={layer: as_vector(value, where=f"{path.name}: layer {layer}") for layer, value in content.items()},
        biases=None,
        lost=(
            "the bias, and with it any bound in probability",
            "the model it is for: only its width is checked",
            *NOT_SAID,
        ),
    )


def write_steering_vectors(path: Path, vectors: Mapping[int, NDArray[np.float32]]) -> None:
    """Write a dict of plain tensors with the fields of SteeringVector."""
    layers = {layer: torch.from_numpy(np.array(vector, dtype=np.float32)) for layer, vector in sorted(vectors.items())}
    torch.save({"layer_activations": layers, "layer_type": _BLOCK}, path)
