"""The decoding step, compiled: one graph for a fixed number of rows, whatever their lengths and their plans.

`torch.compile` fuses what stands between the products and lays the weights out for this number of rows ("freezing").
What changes from step to step is data: tokens, positions, and the number of keys looked at, the graph's one dynamic
dimension. So it is compiled once, at start-up, and never again.

    rows      as many as the engine has slots; those beyond the rows that write are padding. A padding row reads token
              0 at position 0 of its own free slot, where whoever joins writes before reading.
    cache     the engine's own storage, seen through layers that store by position
    steering  an operation the compiler does not look into, after every block: it asks the pass that runs
              (`SlotSteering.act`), so plans come and go without a new graph

The graph is made from a twin of the model, which shares its weights and carries the hooks: the model itself is left
alone. The weights it lays out stand beside the plain ones, so they take their memory once more.
Tested in float32 and bfloat16 on the CPU; other devices go the same way, but nobody has tried.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from types import FunctionType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from steering.architectures import state_kind
from steering.engine.masks import attend_by_row
from steering.engine.slots import SlotAttention, SlotCache, Window
from steering.engine.steered import SlotSteering
from steering.errors import ModelError, UnsupportedModel
from steering.hooks import Controller, steer
from steering.models import LanguageModel
from steering.stepping import cache_name

_STEERED: WeakValueDictionary[int, SlotSteering] = WeakValueDictionary()
"""Who steers a graph, by the number that stands in it"""
_NUMBERS = count()

# Registered by hand: what `torch.library.custom_op` wraps around a call takes three times as long as the call.
_OPS: Any = torch.library.Library("tiller", "FRAGMENT")  # type: ignore[no-untyped-call]
_OPS.define("steer(Tensor resid, int layer, int number) -> Tensor")
_OPS.impl("steer", lambda resid, layer, number: _STEERED[number].act(layer, resid), "CompositeExplicitAutograd")
_OPS.impl("steer", lambda resid, layer, number: torch.empty_like(resid), "Meta")


class CompiledStep:
    """One token in each of `rows` slots. Compiling it takes a minute or two for 30 layers.

    Raises UnsupportedModel for recurrent and hybrid models, ModelError when there is no C++ compiler or PyTorch cannot
    compile this model.
    """

    def __init__(self, lm: LanguageModel, cache: SlotCache, steering: SlotSteering, *, rows: int) -> None:
        kind = state_kind(lm.model)
        if kind != "attention":
            raise UnsupportedModel(
                f"{type(lm.model).__name__} is a {kind} model, and only the steps of attention models can be compiled; "
                "start without --compile (compile=False)"
            )
        self._rows, self._device, self._steering = rows, lm.device, steering
        number = next(_NUMBERS)
        _STEERED[number] = steering
        twin = _twin(lm.model)
        self._hooks = ExitStack()
        self._hooks.enter_context(
            steer(twin, {layer: _ask(layer, number) for layer in range(lm.info.num_hidden_layers)})
        )
        self._step = _graph(twin, cache, rows)
        try:
            with warnings.catch_warnings(), torch._inductor.config.patch(freezing=True):
                warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's, of its own parts
                self([0], cache.open(0, [0], [1]), [-1])
        except Exception as error:
            raise ModelError(
                f"the decoding step of {lm.name} cannot be compiled: {_reason(error)}; start without --compile "
                "(compile=False)"
            ) from error

    def suits(self, window: Window) -> bool:
        """Whether a pass over `window` can be this step, and gains by it: half of the rows write, with simple plans."""
        rows = len(window.lengths)
        mine = window.first == 0 and window.width == 1 and self._rows <= 2 * rows <= 2 * self._rows
        return mine and self._steering.quick(0, rows)

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, tokens: Sequence[int], window: Window, offsets: Sequence[int]) -> Tensor:
        """Read one token in each row of a window that suits. Float32 logits (rows of the window, vocab).

        Raises SteeringNotApplied when a plan's edits did not happen.
        """
        rows = len(tokens)
        ids, at = torch.zeros(2, self._rows, dtype=torch.long)
        ids[:rows], at[:rows] = torch.tensor(tokens), window.offsets
        columns = torch.arange(window.seen)
        torch._dynamo.mark_dynamic(columns, 0)
        self._steering.open(0, torch.tensor(offsets).unsqueeze(1), padding=self._rows - rows)
        logits = self._step(ids[:, None].to(self._device), at.to(self._device), columns)
        self._steering.close()
        return logits[:rows, -1].float()


class _Place:
    """Where the tokens of a step go, told to all layers at once."""

    at: Tensor
    """(rows,) int64: the position of each row's token"""
    seen: int
    """Keys attention looks at"""


class _Attention(CacheLayerMixin):  # type: ignore[misc]
    """A layer of the cache as the graph sees it: static but for the keys looked at."""

    is_compileable = True

    def __init__(self, place: _Place, layer: SlotAttention, rows: int) -> None:
        super().__init__()
        self.place, self.is_sliding, self.is_initialized = place, layer.is_sliding, True
        self.keys, self.values = layer.keys[:rows], layer.values[:rows]
        index = torch.arange(rows, device=self.keys.device), torch.arange(self.keys.shape[1], device=self.keys.device)
        self.row, self.head = index[0][:, None], index[1][None, :]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Was done by the engine."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store the new (rows, heads, 1, head_dim); what the rows hold."""
        index = self.row, self.head, self.place.at[:, None]
        self.keys.index_put_(index, key_states[:, :, 0])
        self.values.index_put_(index, value_states[:, :, 0])
        return self.keys[:, :, : self.place.seen], self.values[:, :, : self.place.seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys looked at, and the position of the first."""
        return self.place.seen, 0

    def get_seq_length(self) -> int:
        """Positions are given, nobody needs it."""
        return 0

    def get_max_length(self) -> int:
        """Tokens a row can hold."""
        return int(self.keys.shape[-2])


class _Keys(Cache):  # type: ignore[misc]
    """All layers; `steering.engine.masks` reads each row's position."""

    def __init__(self, cache: SlotCache, rows: int) -> None:
        self.place = _Place()
        super().__init__(layers=[_Attention(self.place, layer, rows) for layer in cache.layers])

    def get_query_offset(self, layer_idx: int = 0) -> Tensor:
        """Per row, where its token stands."""
        return self.place.at


def _twin(model: Any) -> Any:
    """A copy that shares all weights and attends by row."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    attend_by_row(twin)
    return twin


def _ask(layer: int, number: int) -> Controller:
    def ask(resid: Tensor) -> Tensor:
        steered: Tensor = torch.ops.tiller.steer(resid, layer, number)
        return steered

    return ask


def _graph(twin: Any, cache: SlotCache, rows: int) -> Callable[..., Tensor]:
    """The function that is compiled at its first call: ids (rows, 1), positions (rows,), keys looked at (seen,)."""
    parameters = inspect.signature(twin.forward).parameters
    keys, name = _Keys(cache, rows), cache_name(twin)
    takes_positions, keep = (
        "position_ids" in parameters,
        {"logits_to_keep": 1} if "logits_to_keep" in parameters else {},
    )

    def step(ids: Tensor, at: Tensor, columns: Tensor) -> Tensor:
        keys.place.at, keys.place.seen = at, columns.shape[0]
        positions = {"position_ids": at[:, None]} if takes_positions else {}
        logits: Tensor = twin(input_ids=ids, use_cache=True, **{name: keys}, **positions, **keep).logits
        return logits

    # PyTorch keeps what it has compiled with the code of a function: every engine needs code of its own.
    own = FunctionType(step.__code__.replace(), step.__globals__, closure=step.__closure__)
    options: Any = {"guard_filter_fn": _shapes} if hasattr(torch.compiler, "skip_all_guards_unsafe") else None
    return torch.compile(own, fullgraph=True, options=options)


def _shapes(guards: Sequence[Any]) -> list[bool]:
    """Which of the conditions of a graph are looked at in every step.

    All but the shapes belong to this class, so they hold; looking at them takes most of a millisecond for 30 layers.
    """
    return [guard.guard_type == "SHAPE_ENV" for guard in guards]


def _reason(error: Exception) -> str:
    """The cause, on one line."""
    text = str(error)
    if "InvalidCxxCompiler" in text or "CppCompileError" in text:
        return "PyTorch needs a working C++ compiler for it, g++ or the one $CXX names"
    return f"{type(error).__name__}: {' '.join(text.split(maxsplit=30)[:30])}"
