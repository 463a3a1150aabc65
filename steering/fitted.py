"""What a probe's layer may carry beside its read-out: the statistics that controllers and metrics are made from.

Each is a float32 tensor named `<group>.<part>`, stored as `layers.{i}.<group>.<part>`. A group is there whole or not
at all, so a controller asks for its group once and gets every part it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from steering.errors import CorruptProbe

HIDDEN, ANY = "hidden_size", "any"
"""Entries of a shape: the model's hidden size, or any positive number."""

GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "mean": {"negative": (HIDDEN,), "positive": (HIDDEN,)},
        "metric": {"diagonal": (HIDDEN,), "factor": (HIDDEN, ANY)},
        "contrast": {"vector": (HIDDEN,)},
        "reading": {"vector": (HIDDEN,), "center": ()},
        "transport": {"scale": (HIDDEN,), "shift": (HIDDEN,)},
        "affine": {"matrix": (HIDDEN, HIDDEN), "shift": (HIDDEN,)},
        "erase": {"reader": (HIDDEN,), "writer": (HIDDEN,), "center": ()},
        "lqr": {"gain": (HIDDEN,)},
        "state": {"offset": (ANY, ANY)},
    }
)
"""Known groups, their parts and shapes."""

NAMES = frozenset(f"{group}.{part}" for group, parts in GROUPS.items() for part in parts)
"""Every known `<group>.<part>`."""


def check_fitted(fitted: Mapping[str, Tensor], *, hidden_size: int, where: str) -> None:
    """Raise CorruptProbe, beginning with `where`, for unknown names, half groups, wrong shapes or dtypes, NaN."""
    strangers = sorted(fitted.keys() - NAMES)
    if strangers:
        raise CorruptProbe(f"{where}: '{strangers[0]}' is no tensor this release knows; update Tiller or refit it")
    for group, parts in GROUPS.items():
        found = [part for part in parts if f"{group}.{part}" in fitted]
        if found and len(found) < len(parts):
            missing = next(part for part in parts if part not in found)
            raise CorruptProbe(f"{where}: has '{group}.{found[0]}' without '{group}.{missing}'; refit it")
        for part in found:
            _check_tensor(fitted[f"{group}.{part}"], parts[part], hidden_size, f"{where}: {group}.{part}")
    if "metric.diagonal" in fitted and not bool((fitted["metric.diagonal"] > 0).all()):
        raise CorruptProbe(f"{where}: metric.diagonal is not positive, so it measures nothing; refit it")


def _check_tensor(tensor: Tensor, shape: tuple[str, ...], hidden_size: int, what: str) -> None:
    if tensor.dtype != torch.float32:
        raise CorruptProbe(f"{what} is {tensor.dtype}, artefacts hold float32; convert or refit it")
    sized = [hidden_size if entry == HIDDEN else None for entry in shape]
    fits = tensor.ndim == len(sized) and all(
        size > 0 and want in (None, size) for size, want in zip(tensor.shape, sized, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in sized)
        raise CorruptProbe(f"{what} has shape {tuple(tensor.shape)}, expected ({wanted}); refit it")
    if not bool(torch.isfinite(tensor).all()):
        raise CorruptProbe(f"{what} holds NaN or infinity; the fit diverged or the file is damaged: refit it")
