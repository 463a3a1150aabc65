"""What any other tool's file comes down to: one vector per block, perhaps a bias, and what it could not say.

Layers are ours: 0-based, the output of that block. Each format's module translates its own numbering.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from probes.errors import ExchangeError

LAYER = re.compile(r"0|[1-9][0-9]{0,3}")
"""How files write a layer number; `01` and `-1` are none."""

NOT_SAID = (
    "which texts it was made from, how, and how well it does: there are no figures",
    "the token rule: 'last' is assumed",
)
"""What none of the formats can say."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """Another tool's read-outs. Raises ExchangeError for none, unequal widths, NaN, infinity and zero vectors."""

    format: str
    file: str
    """Name of the file or folder, without its path."""
    sha256: str
    weights: Mapping[int, Tensor]
    """Block -> (hidden_size,) float32; adding it pushes toward the concept."""
    biases: Mapping[int, float] | None
    """None: the format has none."""
    lost: tuple[str, ...]
    architecture: str | None = None
    """The model type it says it is for."""
    positive_is: str | None = None
    method: Literal["logistic", "imported"] = "imported"
    """`logistic` where the format implies it."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise ExchangeError(f"{self.file} holds no layer that is the output of a block; nothing can be imported")
        widths = {layer: len(weight) for layer, weight in self.weights.items()}
        if len(set(widths.values())) > 1:
            first, last = min(widths, key=widths.__getitem__), max(widths, key=widths.__getitem__)
            raise ExchangeError(
                f"{self.file}: layer {first} is {widths[first]} wide and layer {last} is {widths[last]}; "
                "these are not of one model"
            )
        for layer, weight in sorted(self.weights.items()):
            bias = 0.0 if self.biases is None else self.biases[layer]
            if not bool(torch.isfinite(weight).all()) or not torch.isfinite(torch.tensor(bias)):
                raise ExchangeError(f"{self.file}: layer {layer} holds NaN or infinity; make the file again")
            if not float(weight.norm()) > 0:
                raise ExchangeError(f"{self.file}: the vector of layer {layer} is zero, so it points nowhere")


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 of a file; of several, over their names and hashes, in the order of their names."""
    found = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(found) == 1:
        return next(iter(found.values()))
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in found.items()).encode()).hexdigest()


def as_vector(value: object, *, where: str) -> Tensor:
    """A float tensor of shape (hidden_size,), or with axes of length 1 around it, as (hidden_size,) float32."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ExchangeError(f"{where} is {type(value).__name__}, expected a tensor of floating-point numbers")
    if value.is_sparse or value.is_quantized or value.is_meta or value.numel() != max(value.shape, default=0):
        raise ExchangeError(f"{where} has shape {tuple(value.shape)}, expected (hidden_size,)")
    return value.detach().to(device="cpu", dtype=torch.float32).flatten().clone()


def write_aside(target: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` make a file or folder beside `target` and rename it into place.

    Raises ExchangeError when the target exists, since nothing is overwritten, or when there is no room or right.
    """
    if target.exists() or target.is_symlink():
        raise ExchangeError(
            f"{target} exists already and is not overwritten; give another name, or delete it", param="out"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            write(folder / target.name)
            os.rename(folder / target.name, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ExchangeError(
            f"{target} cannot be written ({error.strerror or error}); free some space or choose another folder",
            param="out",
        ) from error
    return target
