"""Other ways to steer every layer, for `benchmarks/projection.py` to stand beside: as context managers on the model.

None of them holds a bound. `naive` is the closed form in five tensor operations, without verification, budget or
report. `numpy` is the paper's recipe taken literally: at every layer and token to numpy and back, row by row, with w,
its norm and the comparison on the host. The additive hooks of `steering-vectors` and `repeng` are theirs, used as
their documentation says; where a package is not installed, its row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from steering import Probe
from steering.architectures import residual_blocks

Peer = Callable[[nn.Module, Probe, Mapping[int, float]], AbstractContextManager[object]]
"""(model, probe, upper bound in logits by layer) -> steering while the context is open"""


@contextmanager
def naive(model: nn.Module, probe: Probe, upper: Mapping[int, float]) -> Iterator[None]:
    """x + min(0, high - (w . x + b)) w / (w . w), all tokens of the pass."""
    with ExitStack() as undo:
        for layer, block in enumerate(residual_blocks(model)):
            fitted = probe.at(layer)
            weight, bias, high = fitted.weight, fitted.bias, upper[layer]
            direction = weight / weight.dot(weight)

            def hook(
                module: nn.Module,
                args: object,
                resid: Tensor,
                w: Tensor = weight,
                b: float = bias,
                h: float = high,
                d: Tensor = direction,
            ) -> Tensor:
                gap = (h - (resid @ w + b)).clamp_max(0.0)
                return resid + gap.unsqueeze(-1) * d

            undo.callback(block.register_forward_hook(hook).remove)
        yield


@contextmanager
def numpy_round_trip(model: nn.Module, probe: Probe, upper: Mapping[int, float]) -> Iterator[None]:
    """theta = (high - z) w / ||w||^2 where z > high, for the last token of each row."""
    with ExitStack() as undo:
        for layer, block in enumerate(residual_blocks(model)):
            fitted = probe.at(layer)

            def hook(
                module: nn.Module,
                args: object,
                resid: Tensor,
                w: Tensor = fitted.weight,
                b: float = fitted.bias,
                h: float = upper[layer],
            ) -> Tensor:
                for row in range(len(resid)):
                    x = resid[row, -1].cpu().numpy()
                    weight = w.cpu().numpy()
                    z = float(np.dot(weight, x)) + b
                    if z > h:
                        theta = (h - z) / np.linalg.norm(weight) ** 2 * weight
                        resid[row, -1] = torch.from_numpy(x + theta).to(resid.dtype)
                return resid

            undo.callback(block.register_forward_hook(hook).remove)
        yield


@contextmanager
def steering_vectors(model: nn.Module, probe: Probe, upper: Mapping[int, float]) -> Iterator[None]:
    """An additive vector at every layer through `SteeringVector.apply`."""
    from steering_vectors import SteeringVector  # type: ignore[import-not-found]

    vector = SteeringVector({layer: -0.01 * probe.at(layer).weight for layer in upper})
    with vector.apply(model):
        yield


@contextmanager
def repeng(model: nn.Module, probe: Probe, upper: Mapping[int, float]) -> Iterator[None]:
    """An additive vector at every layer through `ControlModel.set_raw_control`.

    repeng 0.4 names `np.float_` at import, which numpy 2 has not; it is lent for that moment.
    """
    if not hasattr(np, "float_"):
        np.float_ = np.float64  # type: ignore[attr-defined]
    from repeng import ControlModel  # type: ignore[import-not-found]

    wrapped = ControlModel(model, list(upper))
    wrapped.set_raw_control({layer: -0.01 * probe.at(layer).weight for layer in upper})
    try:
        yield
    finally:
        wrapped.unwrap()


PEERS: dict[str, Peer] = {
    "naive hooks": naive,
    "numpy round trip": numpy_round_trip,
    "steering-vectors (additive)": steering_vectors,
    "repeng (additive)": repeng,
}
