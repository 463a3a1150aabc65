"""Two verbs on one point: `capture` reads the residual stream after a block, `steer` rewrites it there.

Both are context managers built on forward hooks of the decoder blocks. The undo is registered in the same breath as
the do, so nothing is left on the model, not even after an exception. Hooks are shared state of the module: whoever
calls these must be the only user of the model meanwhile (see `steering.engine`).

Training and verification read through `capture`, never through `output_hidden_states`: its last entry is after the
final norm, and from its second use on it shows the unsteered stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from steering.architectures import residual_blocks
from steering.errors import InvalidRequest, ModelError

Controller = Callable[[Tensor], Tensor]
"""A rule `resid -> resid` on (batch, seq, hidden_size); shape and dtype are kept."""


@contextmanager
def steer(model: nn.Module, controllers: Mapping[int, Controller]) -> Iterator[None]:
    """Rewrite the residual stream after each block named in `controllers` while the context is open.

    `controllers` maps a 0-based layer to its rule. Layers act in order within one forward pass, each on the stream
    the earlier ones have already edited. A controller that returns its input unchanged leaves the pass bit-exact.

    Raises InvalidRequest for a layer the model does not have, ModelError (during the forward pass) for a controller
    that changes shape or dtype.
    """
    blocks = residual_blocks(model)
    for layer in controllers:
        check_layer(layer, num_hidden_layers=len(blocks))
    with ExitStack() as undo:
        for layer, controller in sorted(controllers.items()):
            undo.callback(blocks[layer].register_forward_hook(_rewrite(controller, layer=layer)).remove)
        yield


@contextmanager
def capture(model: nn.Module, layers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the residual stream after the given blocks; the dict is refilled by each forward pass.

    Values are the very tensors the next block receives, (batch, seq, hidden_size) in the model's dtype. Opened inside
    `steer`, it reads the steered stream. Raises InvalidRequest for a layer the model does not have.
    """
    blocks = residual_blocks(model)
    wanted = set(layers)
    for layer in wanted:
        check_layer(layer, num_hidden_layers=len(blocks))
    seen: dict[int, Tensor] = {}
    with ExitStack() as undo:
        for layer in sorted(wanted):
            undo.callback(blocks[layer].register_forward_hook(_record(seen, layer)).remove)
        yield seen


def check_layer(layer: int, *, num_hidden_layers: int) -> None:
    """Refuse anything but a 0-based block index; negative numbers are refused because they hide off-by-one errors."""
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < num_hidden_layers:
        raise InvalidRequest(
            f"layer {layer!r} does not exist; layers are block outputs numbered 0 to {num_hidden_layers - 1}",
            param="layers",
        )


def _rewrite(controller: Controller, *, layer: int) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        resid = _resid(output)
        steered = controller(resid)
        if steered.shape != resid.shape or steered.dtype != resid.dtype:
            raise ModelError(
                f"the controller of layer {layer} returned {tuple(steered.shape)} {steered.dtype}, "
                f"expected {tuple(resid.shape)} {resid.dtype}"
            )
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    return hook


def _record(seen: dict[int, Tensor], layer: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen[layer] = _resid(output).detach()

    return hook


def _resid(output: Any) -> Tensor:
    """Blocks return a bare tensor; in older Transformers releases, and in some hybrids, a tuple that begins with it."""
    resid = output[0] if isinstance(output, tuple) else output
    if not isinstance(resid, Tensor) or resid.ndim != 3:
        raise ModelError(
            f"a decoder block returned {type(resid).__name__}, expected a tensor of shape (batch, seq, hidden_size)"
        )
    return resid
