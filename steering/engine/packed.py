"""Linear maps with their weights in oneDNN's own layout: a quarter to a half faster for passes of 4 to 64 rows.

A decoding step multiplies a few rows by every weight of the model. On a CPU in float32, what PyTorch calls for that is
made for many rows; the same product on a weight that was laid out once for few rows is what Inductor calls when it
freezes a model. Measured on one core with the weights of a 135M model, rows: speed-up, 1: .8, 4: 1.3, 8: 1.6, 16: 1.25,
32: 1.17, 128: 1. So passes of less than `FEW` rows keep to the plain product.

The packed weights stand beside the plain ones, so they take their memory once more. Results differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

FEW = 4
MOST_BYTES = 4 * 2**30
"""Of copies of weights that are made without being asked."""
_ROWS = 16
"""The number of rows the layout is made for."""

Forward = Callable[[Tensor], Tensor]


class PackedLinears:
    """The linear maps of `model` that can be packed: those of float32 on the CPU. Makes a copy of their weights."""

    def __init__(self, model: nn.Module) -> None:
        kept: dict[int, Tensor] = {}
        self._forwards = [(module, _forward(module, kept)) for module in linears(model)]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Multiply by them while the context is open. For the only user of the model, as `steering.hooks.steer`."""
        for module, forward in self._forwards:
            module.__dict__["forward"] = forward
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.__dict__["forward"]


def linears(model: nn.Module) -> list[nn.Linear]:
    """The modules that can be packed: plain linear maps in float32 on the CPU, where oneDNN is there."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return []
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in module.__dict__  # somebody else has replaced it
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    ]


def packs_by_itself(model: nn.Module, *, copies: int) -> bool:
    """Whether the weights are few enough to be kept so many more times without asking."""
    return 0 < copies * sum(module.weight.numel() * 4 for module in linears(model)) <= MOST_BYTES


def _forward(module: nn.Linear, kept: dict[int, Tensor]) -> Forward:
    weight, bias = module.weight, module.bias
    if weight.data_ptr() not in kept:
        kept[weight.data_ptr()] = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
    packed, multiply = kept[weight.data_ptr()], torch.ops.mkldnn._linear_pointwise

    def forward(rows: Tensor) -> Tensor:
        if rows.shape[:-1].numel() < FEW:
            return linear(rows, weight, bias)
        product: Tensor = multiply(rows, packed, bias, "none", [], "")
        return product

    return forward
