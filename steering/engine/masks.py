"""Attention masks for rows that stand at different positions.

Transformers builds every mask of a model from a rule `(row, head, query position, key position) -> may it look`, at
positions that all rows share. Here the same rule, whatever it is (causal, sliding, chunked), is asked at each row's own
positions. So a slot's stale keys are hidden, since they lie ahead of its row, and new kinds of attention need no code.

The attention itself is the model's own. Both are registered under names of ours through the library's interfaces, and
a model uses them between `slot_attention` and its undo; a batch with one offset for all goes the usual way even then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask

from steering.architectures import text_config
from steering.errors import UnsupportedModel

_PREFIX = "tiller_"


def _own_eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The plain attention of the file `module` was written in, where capped logits and the like are."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


def _sdpa_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Any:
    """The library's; a single token's query heads that share keys look at them together, not each at a copy.

    The library does so too, but not in a compiled graph.
    """
    rows, heads, columns, _ = query.shape
    by_row = attention_mask is not None and attention_mask.shape[:2] == (rows, 1)
    if columns > 1 or heads == key.shape[1] or not by_row:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], -1)
    read = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling"))
    return read.reshape(rows, 1, heads, -1), None


def _sdpa(**asked: Any) -> Any:
    if not _by_row(asked):
        return sdpa_mask(**asked)
    return None if _sees_all(asked) else _allowed(**asked)


def _eager(**asked: Any) -> Any:
    if not _by_row(asked):
        return eager_mask(**asked)
    dtype: torch.dtype = asked["dtype"]
    allowed = _allowed(**asked)
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)


_KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sdpa": (_sdpa_attention, _sdpa),
    "eager": (_own_eager, _eager),
}


@contextmanager
def slot_attention(model: nn.Module) -> Iterator[None]:
    """Let `model` attend by row while the context is open. Raises what `attend_by_row` raises."""
    kind = attend_by_row(model)
    try:
        yield
    finally:
        _switch(model, kind)


def attend_by_row(model: nn.Module) -> str:
    """Let `model` attend by row for good; the attention it had.

    Raises UnsupportedModel for an attention implementation other than sdpa and eager.
    """
    kind = str(text_config(model)._attn_implementation)
    if kind not in _KINDS:
        raise UnsupportedModel(
            f"{type(model).__name__} was loaded with attention '{kind}'; the engine knows "
            f"{' and '.join(_KINDS)}: load it with attn_implementation='sdpa'"
        )
    attend, mask = _KINDS[kind]
    AttentionInterface.register(_PREFIX + kind, attend)
    AttentionMaskInterface.register(_PREFIX + kind, mask)
    _switch(model, _PREFIX + kind)
    return kind


def _switch(model: Any, name: str) -> None:
    for config in (model.config, text_config(model)):
        config._attn_implementation = name


def _sees_all(asked: dict[str, Any]) -> bool:
    """Whether every row reads one token and may look at every key: then there is nothing to mask."""
    plain = asked["mask_function"] is causal_mask_function and asked["q_length"] == 1
    return plain and bool((asked["q_offset"] + 1 == asked["kv_offset"] + asked["kv_length"]).all())


def _by_row(asked: dict[str, Any]) -> bool:
    offset = asked["q_offset"]
    return isinstance(offset, Tensor) and offset.ndim == 1


def _allowed(
    *,
    q_length: int,
    kv_length: int,
    q_offset: Tensor,
    kv_offset: int,
    mask_function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    device: torch.device,
    **_: Any,
) -> Tensor:
    """(rows, 1, q_length, kv_length) bool. Padding, which stands before a row's first token, looks at its first key."""
    rows = len(q_offset)
    queries = (q_offset.to(device)[:, None] + torch.arange(q_length, device=device)).clamp_min(0)
    return mask_function(
        torch.arange(rows, device=device)[:, None, None, None],
        torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device),
        queries[:, None, :, None],
        torch.arange(kv_offset, kv_offset + kv_length, device=device)[None, None, None, :],
    ).expand(rows, 1, q_length, kv_length)
