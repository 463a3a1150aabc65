"""A cache of fixed size whose rows come and go: one slot per row, each at its own length.

Made from the model's own Transformers cache: whatever layers `DynamicCache(config)` has, attention, recurrent or both,
stand here with the same methods over storage that is allocated once, (slots, ...). A pass works on a *window* of
neighbouring slots, seen through views, so nothing is copied when a row joins, and one row when a row leaves.

    attention   keys and values (slots, heads, row_tokens, head_dim); a row's tokens stand at 0, 1, 2, ...
    recurrent   the convolution's and the scan's state, (slots, ...), edited in place by the model

Slots hold what earlier rows left behind. Masks (`steering.engine.masks`) hide it from attention; recurrent states are
set to zero when a row begins. Sliding layers keep all tokens of a row and hide those outside the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from mmap import mmap

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from steering.errors import UnsupportedModel

ROUND = 16
"""Where rows differ in length, attention looks at the longest, rounded up to this: fewer shapes, aligned reads."""


@dataclass(eq=False)
class Window:
    """The slots a pass works on, and where its tokens go."""

    first: int = 0
    lengths: tuple[int, ...] = ()
    """Tokens each row holds already"""
    new: tuple[int, ...] = ()
    """Tokens each row reads in this pass; where they differ, shorter rows are padded on the left"""
    width: int = 0
    """Columns of the pass: the most new tokens"""
    seen: int = 0
    """Keys attention looks at: those of the longest row after the pass"""
    offsets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """(rows,) int64: the position of each row's first column, negative where that is padding"""
    _lines: dict[tuple[torch.Size, torch.device], Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> slice:
        """The slots."""
        return slice(self.first, self.first + len(self.lengths))

    def lines(self, stored: Tensor) -> Tensor:
        """(rows x heads,) int64: where in storage (slots, heads, row_tokens, ...) each row's one new token goes."""
        key = stored.shape[1:3], stored.device
        if key not in self._lines:
            heads, tokens = key[0]
            slots = torch.arange(self.rows.start, self.rows.stop)
            lines = (slots[:, None] * heads + torch.arange(heads)) * tokens + self.offsets[:, None]
            self._lines[key] = lines.flatten().to(stored.device)
        return self._lines[key]

    def open(self, first: int, lengths: Sequence[int], new: Sequence[int], *, most: int) -> None:
        """Announce the next pass; `most` keys at most are looked at."""
        self.first, self.lengths, self.new, self.width = first, tuple(lengths), tuple(new), max(new)
        longest = max(self.ends)
        self.seen = longest if longest == min(self.ends) else min(-(-longest // ROUND) * ROUND, most)
        self.offsets = torch.tensor([held + own - self.width for held, own in zip(lengths, new, strict=True)])
        self._lines.clear()

    @property
    def ends(self) -> list[int]:
        """Tokens each row holds after the pass."""
        return [held + new for held, new in zip(self.lengths, self.new, strict=True)]


class SlotAttention(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, (slots, heads, row_tokens, head_dim)."""

    is_compileable = False

    def __init__(self, window: Window, like: DynamicLayer, *, slots: int, row_tokens: int) -> None:
        super().__init__()
        self.window = window
        self.is_sliding = like.is_sliding
        self.device, self.is_initialized = like.keys.device, True
        self.keys, self.values = (_slots(part, slots, row_tokens) for part in (like.keys, like.values))

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store the new (rows, heads, width, head_dim), padding excepted; all that the rows hold, and what is stale."""
        window = self.window
        keys, values = self.keys[window.rows], self.values[window.rows]
        if window.width == 1:
            for stored, fresh in ((self.keys, key_states), (self.values, value_states)):
                lines = stored.view(-1, stored.shape[-1])
                lines.index_copy_(0, window.lines(stored), fresh.reshape(-1, stored.shape[-1]))
        else:
            for row, (held, new) in enumerate(zip(window.lengths, window.new, strict=True)):
                keys[row, :, held : held + new] = key_states[row, :, window.width - new :]
                values[row, :, held : held + new] = value_states[row, :, window.width - new :]
        return keys[:, :, : window.seen], values[:, :, : window.seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys looked at, and the position of the first."""
        return self.window.seen, 0

    def get_seq_length(self) -> int:
        """Tokens the longest row held before this pass."""
        return max(self.window.lengths, default=0)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy one slot into another."""
        for part in (self.keys, self.values):
            part[target, :, :tokens] = part[source, :, :tokens]

    def clear(self, slot: int) -> None:
        """Forget what a slot holds: a NaN there would pass through any mask."""
        self.keys[slot].zero_()
        self.values[slot].zero_()


class SlotState(LinearAttentionLayer):  # type: ignore[misc]
    """Convolution and recurrent states of one layer, (slots, ...) each."""

    is_compileable = False

    def __init__(self, window: Window, like: LinearAttentionCacheLayerMixin, *, slots: int) -> None:
        super().__init__(number_of_states=like.number_of_states)
        self.window = window
        self.device, self.dtype = like.device, like.dtype
        self.conv_kernel_size = dict(like.conv_kernel_size)
        self.is_conv_states_initialized = dict(like.is_conv_states_initialized)
        self.is_recurrent_states_initialized = dict(like.is_recurrent_states_initialized)
        self.has_previous_state = dict.fromkeys(like.has_previous_state, True)
        self._conv, self._recurrent = (
            {index: None if state is None else _slots(state, slots) for index, state in states.items()}
            for states in (like.conv_states, like.recurrent_states)
        )

    def look(self) -> None:
        """Show the window's rows as the states of the layer; a row that begins, begins at zero."""
        rows = self.window.rows
        for all_slots, shown in ((self._conv, self.conv_states), (self._recurrent, self.recurrent_states)):
            for index, states in all_slots.items():
                shown[index] = None if states is None else states[rows]
        for row, held in enumerate(self.window.lengths):
            if held == 0:
                self.begin(self.window.first + row)

    def begin(self, slot: int) -> None:
        """Set the states of a slot to zero."""
        for states in self.states:
            states[slot] = 0

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy one slot into another."""
        for states in self.states:
            states[target] = states[source]

    def clear(self, slot: int) -> None:
        """Forget what a slot holds."""
        self.begin(slot)

    @property
    def states(self) -> list[Tensor]:
        """The storage itself, all slots of it."""
        return [state for states in (self._conv, self._recurrent) for state in states.values() if state is not None]


class SlotBoth(SlotState, SlotAttention):
    """A layer that keeps keys and values and a recurrent state."""

    def __init__(self, window: Window, like: DynamicLayer, *, slots: int, row_tokens: int) -> None:
        SlotAttention.__init__(self, window, like, slots=slots, row_tokens=row_tokens)
        held = self.keys, self.values, self.device
        SlotState.__init__(self, window, like, slots=slots)
        self.keys, self.values, self.device = held
        self.is_initialized = True

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy one slot into another."""
        SlotAttention.move(self, source, target, tokens)
        SlotState.move(self, source, target, tokens)

    def clear(self, slot: int) -> None:
        """Forget what a slot holds."""
        SlotState.clear(self, slot)
        SlotAttention.clear(self, slot)


class SlotCache(Cache):  # type: ignore[misc]
    """All layers of a model; `open` before every pass."""

    def __init__(self, like: DynamicCache, *, slots: int, row_tokens: int) -> None:
        """`like` is a cache that has read something, whose shapes are taken over.

        Raises UnsupportedModel for a layer that is neither attention nor recurrent.
        """
        self.slots, self.row_tokens = slots, row_tokens
        self.window = Window()
        super().__init__(layers=[self._layer(layer) for layer in like.layers])

    def open(self, first: int, lengths: Sequence[int], new: Sequence[int]) -> Window:
        """Announce the next pass: which slots, what they hold, and how many tokens each of them reads."""
        self.window.open(first, lengths, new, most=self.row_tokens)
        for layer in self.layers:
            if isinstance(layer, SlotState):
                layer.look()
        return self.window

    def get_query_offset(self, layer_idx: int = 0) -> Tensor:
        """Per row, where its first column stands; `steering.engine.masks` reads it."""
        return self.window.offsets

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the row in one slot, of so many tokens, into another."""
        for layer in self.layers:
            if not isinstance(layer, DummyLayer):
                layer.move(source, target, tokens)

    def clear(self, slot: int) -> None:
        """Forget what a slot holds."""
        for layer in self.layers:
            if not isinstance(layer, DummyLayer):
                layer.clear(slot)

    @property
    def bytes(self) -> int:
        """What is reserved; an operating system commits it as it is written."""
        tensors = [
            tensor
            for layer in self.layers
            for tensor in (
                *([layer.keys, layer.values] if isinstance(layer, SlotAttention) else []),
                *(layer.states if isinstance(layer, SlotState) else []),
            )
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _layer(self, layer: object) -> object:
        if isinstance(layer, DummyLayer):
            return layer
        attends = isinstance(layer, CacheLayerMixin)
        remembers = isinstance(layer, LinearAttentionCacheLayerMixin)
        if attends and remembers:
            return SlotBoth(self.window, layer, slots=self.slots, row_tokens=self.row_tokens)
        if attends:
            return SlotAttention(self.window, layer, slots=self.slots, row_tokens=self.row_tokens)
        if remembers:
            return SlotState(self.window, layer, slots=self.slots)
        raise UnsupportedModel(
            f"a cache layer of type {type(layer).__name__} is neither attention nor recurrent; "
            "generate one batch at a time with steering.generate"
        )


def _slots(like: Tensor, slots: int, row_tokens: int | None = None) -> Tensor:
    """Zeros (slots, ...) shaped as the rows of `like`; with `row_tokens`, its last axis but one is that long."""
    shape = [slots, *like.shape[1:]]
    if row_tokens is not None:
        shape[-2] = row_tokens
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    # On a CPU straight from the operating system, whose zeros take no memory until they are written.
    return torch.frombuffer(mmap(-1, math.prod(shape) * like.element_size()), dtype=like.dtype).view(shape)
