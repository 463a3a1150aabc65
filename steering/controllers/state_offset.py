"""state-offset: a fixed offset h' on the recurrent state of a state-space layer, the same at every generated token.

A layer computes h_t = A_t h_{t-1} + B_t x_t, 0 < A_t < 1, and reads y_t = C_t h_t (plus what does not depend on h).
h' is the mean state of one class minus that of the other (probes/fitting/state.py). With e_t for what the offset has
added to h_t, y_t = C_t (h_t + e_t), and h_t the recurrence without it:

    apply once, before step 1        e_t = A_t ... A_1 c h'                decays: forgotten as any token is
    apply before every step          e_t = sum_k (A_t ... A_k) c h'        grows: up to h' A / (1 - A) per coordinate
    held at every step               e_t = A_t c h'                        stays: the same dose at every token

`apply` is the edit itself, `held` its use for steering. Adding again and again is not the same offset again and again:
what was added has not decayed yet, so slow coordinates (A near 1) pile up. In freshly initialised Mambas the sum is
6 times h' after 8 tokens and more than 50 times after 200, and the coefficient would mean something else at every
token. So `held` takes the offset out after each step. From a state alone that is impossible, as A_t depends on the
token; it is exact because the mixer is run once more from the state without offset, whose result is kept. That costs
a second run of the mixer at the chosen layers, of one token, and no more.

State-offset tuning (2503.03499) has e_t = c h' with a trained h': it adds after the decay, inside the mixer. Here the
offset stands where the state is kept, between two steps, and decays once before it is read. Paulo, Marshall and
Belrose (2404.05971) add differences of class means to recurrent and convolution states for the last one to three
tokens of a prompt, each on top of the last; the convolution state is left alone here, as it forgets in four tokens.

The offset acts on tokens read one at a time: a prompt is read as it is, so the first new token is written without it.
The cache holds the layer's own recurrence over the steered stream. Once the offset ends, nothing of it is left in that
layer; deeper layers and attention keys remember what they read. No bound is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from transformers import Cache

from steering.controllers.base import Settings
from steering.errors import SteeringNotApplied, UnsupportedSteering
from steering.probe import Probe
from steering.recurrent import Shape, recurrent_layers, recurrent_mixers, recurrent_state


@dataclass(frozen=True, eq=False)
class StateOffset:
    """c h' per layer. Frozen, shared between batches; remembers nothing."""

    offsets: Mapping[int, Tensor]
    """h' by layer, (intermediate, state_size) float32; a state of several heads is that with its heads joined"""
    coefficient: float = 1.0
    """c"""

    @classmethod
    def of(cls, probe: Probe, layers: Sequence[int], settings: Settings) -> Self:
        """From `state.offset` of `probe`. Raises UnsupportedSteering at a layer that does not carry it."""
        return cls({layer: probe.group("state", layer)["offset"] for layer in layers}, settings.coefficient)

    def check(self, model: nn.Module) -> None:
        """Raise UnsupportedSteering unless `model` has a recurrent state of the right shape at every layer."""
        shapes = recurrent_layers(model, list(self.offsets))
        for layer, offset in self.offsets.items():
            _check_shape(offset, shapes[layer], layer)

    def apply(self, cache: Cache, *, rows: Tensor, on: Tensor) -> None:
        """h <- h + c on h' for `rows` of `cache`, (n,) int64 and distinct; `on` is (n,), bool or a factor per row.

        Once, in place, in float32, cast back to the state's dtype. Other rows, layers and states are not touched, and
        a row whose `on` is 0 keeps its value. Raises UnsupportedSteering for a layer without state or of another shape,
        InvalidRequest before the prompt has been read.
        """
        states = {layer: recurrent_state(cache, layer) for layer in self.offsets}
        for layer, offset in self.offsets.items():
            _check_shape(offset, (states[layer][0, ..., 0].numel(), states[layer].shape[-1]), layer)
        for layer, offset in self.offsets.items():
            state, at = states[layer], rows.to(states[layer].device)
            share = self.coefficient * on.to(state.device).float()
            before = state.index_select(0, at).float()
            after = before + (share[:, None, None] * offset.to(state.device)).view_as(before)
            state.index_copy_(0, at, after.to(state.dtype))


class StateEdit(NamedTuple):
    """An offset and the rows of the batch it acts on in the next step; `rows` and `on` as in `StateOffset.apply`."""

    offset: StateOffset
    rows: Tensor
    on: Tensor


@contextmanager
def held(model: nn.Module, cache: Cache, edits: Sequence[StateEdit]) -> Iterator[None]:
    """One step, of one token per row, that reads every state with its offset and leaves it in `cache` without.

    Edits of the same row and layer add up. Rows that are in no edit, or whose `on` is 0, are bit-exact (in a mixture
    of experts up to rounding, as its rows share matrix products). Like `steer`, for the only user of the model.
    Raises what `apply` raises, and SteeringNotApplied when the context ends and a layer has not taken its step; such a
    layer's state is put back, after any exception too.
    """
    layers = sorted({layer for edit in edits for layer in edit.offset.offsets})
    kept = {layer: (recurrent_state(cache, layer).clone(), cache.get_conv_state(layer).clone()) for layer in layers}
    mixers = recurrent_mixers(model) if layers else {}
    with ExitStack() as undo:
        undo.callback(_restore, cache, kept)
        for edit in edits:
            edit.offset.apply(cache, rows=edit.rows, on=edit.on)
        for layer in layers:
            step = _step_without(cache, layer, kept)
            undo.callback(mixers[layer].register_forward_hook(step, with_kwargs=True).remove)
        yield
    if kept:
        raise SteeringNotApplied(
            f"no step was taken with the state offsets of layers {sorted(kept)}, so its text would be unsteered; "
            "run one step of the model with the same cache inside held(model, cache, edits)"
        )


def _step_without(cache: Cache, layer: int, kept: dict[int, tuple[Tensor, Tensor]]) -> Callable[..., None]:
    """A forward hook: take the same step from the state as it was without offset, and keep where that leads."""

    def hook(mixer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        assert output.shape[1] == 1, "a step reads one token per row"
        state, conv = kept.pop(layer)
        recurrent_state(cache, layer).copy_(state)
        cache.get_conv_state(layer).copy_(conv)
        mixer.forward(*args, **kwargs)  # forward, not call: no hook of this mixer runs twice

    return hook


def _restore(cache: Cache, kept: Mapping[int, tuple[Tensor, Tensor]]) -> None:
    """Take the offset out of the layers that have not taken their step."""
    for layer, (state, _) in kept.items():
        recurrent_state(cache, layer).copy_(state)


def _check_shape(offset: Tensor, shape: Shape, layer: int) -> None:
    if tuple(offset.shape) != shape:
        raise UnsupportedSteering(
            f"the state offset of layer {layer} has shape {tuple(offset.shape)}, the recurrent state of this model "
            f"(intermediate, state_size) {shape}; fit it again on this model",
            param="controller",
        )
