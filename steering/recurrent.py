"""Where the recurrent state of a layer is: which layers of a model have one, its shape, and its tensor in a cache.

A state-space layer remembers h, one row of numbers per channel: (intermediate, state_size). Mamba, FalconMamba and
Jamba keep it so; Mamba-2, Zamba2 and Bamba keep (heads, head_dim, state_size), which is the same with the channels
folded, so one shape names both. The tensor itself belongs to the Transformers cache and is edited in place by the
model at every step. The short memory of the convolution before it is another state, and no business of this module.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import Cache

from steering.architectures import residual_blocks
from steering.errors import InvalidRequest, UnsupportedSteering
from steering.hooks import check_layer

Shape = tuple[int, int]
"""(intermediate, state_size)"""


def recurrent_mixers(model: nn.Module) -> dict[int, nn.Module]:
    """The state-space mixer of every layer that has one, by layer: the module that owns the decay rates `A_log`."""
    mixers: dict[int, nn.Module] = {}
    for layer, block in enumerate(residual_blocks(model)):
        owners = [module for module in block.modules() if isinstance(getattr(module, "A_log", None), nn.Parameter)]
        if owners:
            (mixers[layer],) = owners
    return mixers


def recurrent_layers(model: nn.Module, layers: Sequence[int] | None = None) -> dict[int, Shape]:
    """The state's shape at each of `layers`, by default at every layer with a state.

    Raises UnsupportedSteering when the model or one of `layers` has none, InvalidRequest for a layer that is not there.
    """
    mixers = recurrent_mixers(model)
    kind = getattr(model.config, "model_type", type(model).__name__)
    if not mixers:
        raise UnsupportedSteering(
            f"model type '{kind}' has no recurrent state at any layer, so there is nothing to offset; "
            "use a controller of the residual stream, or a state-space model",
            param="controller",
        )
    count = len(residual_blocks(model))
    for layer in layers or ():
        check_layer(layer, num_hidden_layers=count)
        if layer not in mixers:
            raise UnsupportedSteering(
                f"layer {layer} of model type '{kind}' has no recurrent state; layers with one: {sorted(mixers)}",
                param="layers",
            )
    return {layer: _shape(mixers[layer]) for layer in (sorted(mixers) if layers is None else layers)}


def recurrent_state(cache: Cache, layer: int) -> Tensor:
    """The state itself, not a copy: (batch, intermediate, state_size) or (batch, heads, head_dim, state_size).

    Raises UnsupportedSteering for a layer that keeps none, InvalidRequest before the prompt has been read.
    """
    held = cache.layers[layer : layer + 1] if layer >= 0 else []
    if not held or not hasattr(held[0], "recurrent_states"):
        found = type(held[0]).__name__ if held else f"nothing beyond its {len(cache.layers)} layers"
        raise UnsupportedSteering(
            f"layer {layer} keeps no recurrent state, the cache has {found} there; choose a layer that does",
            param="layers",
        )
    state: Tensor | None = cache.get_recurrent_state(layer)
    if state is None:
        raise InvalidRequest(f"layer {layer} has no recurrent state yet; read the prompt first", param="layers")
    return state


def _shape(mixer: nn.Module) -> Shape:
    return int(mixer.intermediate_size), int(mixer.ssm_state_size)  # type: ignore[arg-type]
