"""Feeding a left-padded batch to any model of the table: the prompt at once, then one token a step.

Every row's last prompt token stands at the last column, so `logits[:, -1]` belongs to every row. Attention rows get
an attention mask and positions counted from their own first token; recurrent blocks multiply padded inputs by zero,
so that padding reaches neither the convolution nor the recurrent state (a theorem of tests/steering/test_padding.py,
not a hope). One `DynamicCache` made from the config serves attention, state-space and hybrid models alike.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from steering.architectures import state_kind


def left_pad(rows: Sequence[Sequence[int]], *, pad_token_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (batch, longest) int64; rows are padded on the left."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[index, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)


def prefill_inputs(model: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Keyword arguments of one forward pass over a left-padded batch without a cache: mask, and positions if taken."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in _parameters(model):
        inputs["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp_min(0)
    return inputs


class Stepper:
    """One batch on its way through the model; holds the cache and the growing mask, nothing else."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._recurrent = state_kind(model) == "recurrent"
        parameters = _parameters(model)
        self._cache_name = cache_name(model)
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._cache = DynamicCache(config=model.config)
        self._mask: Tensor | None = None

    @property
    def cache(self) -> DynamicCache:
        """What the model remembers of the batch so far, itself and not a copy."""
        return self._cache

    def prefill(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read the prompts, (batch, longest), and return float32 logits of the next token, (batch, vocab)."""
        self._mask = mask
        return self._forward(prefill_inputs(self._model, ids, mask))

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token per row, (batch,), and return float32 logits of the next, (batch, vocab)."""
        assert self._mask is not None, "prefill comes first"
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=-1)
        inputs = {
            name: value[:, -1:] for name, value in prefill_inputs(self._model, tokens[:, None], self._mask).items()
        }
        if self._recurrent:
            del inputs["attention_mask"]  # a generated token is never padding
        else:
            inputs["attention_mask"] = self._mask
        return self._forward(inputs)

    def fork(self) -> Stepper:
        """A second batch that goes on from the same place: the cache is copied, the model shared."""
        twin = Stepper(self._model)
        twin._cache, twin._mask = copy.deepcopy(self._cache), self._mask
        return twin

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        inputs = inputs | {self._cache_name: self._cache}
        logits: Tensor = self._model(**inputs, use_cache=True, **self._extra).logits
        return logits[:, -1].float()


def cache_name(model: Any) -> str:
    """What `model.forward` calls its cache: `cache` since Transformers 5.24, before that a name per family."""
    parameters = _parameters(model)
    return next(name for name in ("cache", "cache_params", "past_key_values") if name in parameters)


def _parameters(model: Any) -> Any:
    return inspect.signature(model.forward).parameters
