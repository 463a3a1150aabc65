"""The linear probes of the LiSeCo paper's code: `<model>_linear_probe_layer_<l>_rs<seed>.pt`, one file per layer.

Each holds a `torch.nn.Linear`, saved whole or as its state dict (bare, or under `linear.`), with one of two heads:

    one output    z = w . x + b               P(label 1) = sigmoid(z)             binary cross entropy (later versions)
    two outputs   z0, z1, label 1 in row 1    P(label 1) = sigmoid(z1 - z0)       softmax (first version)

so a head of two becomes w = w1 - w0, b = b1 - b0. Mind the sign: the paper's first version writes w = w(safe) -
w(unsafe), the negative of this.

Numbering: l indexes `hidden_states`, which begins with the embeddings, so l is the output of our block l - 1. Two of
its entries are no block's output and are left out, saying so: l = 0, the embeddings, and l = num_hidden_layers, which
the library returns after the final norm (their code applies that probe before the norm). For the same reason our last
block has no number there and is not written.

Their probabilities are the logistic of a fit whose early stopping saw the same texts; nothing was calibrated, so only
bounds in logits are accepted until somebody calibrates: their p is the logit log p - log(1 - p).
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.errors import ExchangeError
from probes.exchange.foreign import LAYER, NOT_SAID, Foreign, as_vector, sha256_of
from probes.exchange.pickled import load_tensors

FORMAT = "liseco"
NAME = re.compile(
    rf"(?P<model>.*?)_?(?:linear_probe_)?layer_(?P<layer>{LAYER.pattern})(?:_rs(?P<seed>\w+?))?(?:_linear_probe)?\.pt"
)
"""Both orders of the words that the code has used."""


def read_liseco(source: Path, *, num_hidden_layers: int) -> Foreign:
    """Read one file, a folder of them, or a glob pattern. Raises ExchangeError for any file that is not such a probe.

    Files of several seeds or models are refused: one probe has one read-out per layer.
    """
    files = _files(source)
    weights: dict[int, Tensor] = {}
    biases: dict[int, float] = {}
    lost = [*NOT_SAID]
    for layer, path in sorted(files.items()):
        weight, bias = _head(path)
        if layer == 0 or layer == num_hidden_layers:
            what = "the embeddings" if layer == 0 else "the stream after the final norm"
            lost.append(f"{path.name} reads {what}, which is no block's output: left out")
        elif layer > num_hidden_layers:
            raise ExchangeError(
                f"{path.name} is for layer {layer} (block {layer - 1}), but the model has {num_hidden_layers} blocks; "
                "it belongs to another model"
            )
        else:
            weights[layer - 1], biases[layer - 1] = weight, bias
    return Foreign(
        format=FORMAT,
        file=source.name,
        sha256=sha256_of(files.values()),
        weights=weights,
        biases=biases,
        lost=("a calibration: bounds in logits only", "the model it is for: only its width is checked", *lost),
        method="logistic",
    )


def write_liseco(
    folder: Path, weights: Mapping[int, NDArray[np.float32]], biases: Mapping[int, float], *, model: str
) -> None:
    """Write one state dict of a one-output Linear per layer into a new folder."""
    folder.mkdir()
    for layer, weight in weights.items():
        state = {
            "weight": torch.from_numpy(np.array(weight, dtype=np.float32))[None],
            "bias": torch.tensor([biases[layer]]),
        }
        torch.save(state, folder / f"{model}_linear_probe_layer_{layer + 1}_rs0.pt")


def _files(source: Path) -> dict[int, Path]:
    """Their layer -> file."""
    if source.is_dir():
        paths = sorted(source.glob("*.pt"))
    else:
        paths = [source] if source.is_file() else sorted(map(Path, glob.glob(str(source))))
    if not paths:
        raise ExchangeError(
            f"{source} matches no .pt file; give a file, a folder, or a pattern in quotes", param="path"
        )
    found: dict[int, Path] = {}
    models = set()
    for path in paths:
        named = NAME.fullmatch(path.name)
        if named is None:
            raise ExchangeError(
                f"{path.name} is not named <model>_linear_probe_layer_<number>_rs<seed>.pt, so its layer is unknown; "
                "leave it out with a pattern such as 'FOLDER/*_rs42.pt'"
            )
        layer = int(named["layer"])
        models.add(named["model"])
        if layer in found or len(models) > 1:
            other = found.get(layer, paths[0]).name
            raise ExchangeError(
                f"{other} and {path.name} are of several seeds or models, and a probe has one read-out per layer; "
                "choose with a pattern such as 'FOLDER/<model>_*_rs42.pt'"
            )
        found[layer] = path
    return found


def _head(path: Path) -> tuple[Tensor, float]:
    """(hidden_size,) float32 and the bias, for the logit of label 1."""
    content = load_tensors(path, allowed=[nn.Linear])
    if isinstance(content, nn.Linear):
        content = vars(content).get("_parameters")  # not its attributes: a hostile file may have put anything there
    if not isinstance(content, dict):
        raise ExchangeError(f"{path.name} holds {type(content).__name__}, expected a Linear layer or its state dict")
    state = {str(key).removeprefix("linear."): value for key, value in content.items()}
    if state.keys() != {"weight", "bias"} or not all(isinstance(value, Tensor) for value in state.values()):
        found = ", ".join(sorted(state))[:80] or "nothing"
        raise ExchangeError(f"{path.name} holds {found}; expected weight and bias of one Linear layer")
    weight, bias = state["weight"], state["bias"]
    heads = weight.shape[0] if weight.ndim == 2 else 0
    if heads not in (1, 2) or tuple(bias.shape) != (heads,):
        raise ExchangeError(
            f"{path.name}: weight is {tuple(weight.shape)} and bias {tuple(bias.shape)}, expected one or two outputs: "
            "(1, hidden_size) and (1,), or (2, hidden_size) and (2,)"
        )
    rows = [as_vector(row, where=f"{path.name}: weight") for row in weight]
    shifts = as_vector(bias, where=f"{path.name}: bias").double().tolist()
    if heads == 1:
        return rows[0], shifts[0]
    return rows[1] - rows[0], shifts[1] - shifts[0]
