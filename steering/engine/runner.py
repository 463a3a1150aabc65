"""Forward passes over neighbouring slots: the model, its cache and its steering, brought together.

A pass reads some tokens of each row of a window, steers them by their own plans, and leaves the rows' keys and states
in their slots. It knows neither requests nor sampling.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from steering.architectures import state_kind
from steering.controllers.state_offset import held
from steering.engine.compiled import CompiledStep
from steering.engine.masks import slot_attention
from steering.engine.packed import PackedLinears
from steering.engine.slots import ROUND, SlotCache, SlotState
from steering.engine.steered import SlotSteering
from steering.hooks import steer
from steering.models import LanguageModel
from steering.rows import PAD
from steering.stepping import cache_name

_CLOSE = 0.05
"""Recurrent states further apart than this, relative to their length, are not the same."""


class Runner:
    """The only place where the model is called. `slots` rows are in the cache, and steered, at most."""

    def __init__(
        self, lm: LanguageModel, *, slots: int, row_tokens: int, pack: bool = False, compiled_rows: int | None = None
    ) -> None:
        """`compiled_rows` of the slots, from 0 on, can be read by a compiled step."""
        self.lm = lm
        self._packed = PackedLinears(lm.model) if pack else None
        parameters = inspect.signature(lm.model.forward).parameters
        self._cache_name = cache_name(lm.model)
        self._takes_positions = "position_ids" in parameters
        self._takes_keep = "logits_to_keep" in parameters
        self._takes_mask = state_kind(lm.model) != "attention"
        like = DynamicCache(config=lm.model.config)
        self._call({"input_ids": torch.tensor([[1, 2]], device=lm.device), self._cache_name: like})
        # A graph for any number of keys but all of them: PyTorch takes that one for another case.
        spare = ROUND if compiled_rows else 0
        self.cache = SlotCache(like, slots=slots, row_tokens=row_tokens + spare)
        self.steering = SlotSteering(lm, slots=slots)
        self.continues = self._continues()
        """Whether several tokens can be read at once behind others; if not, they are read one by one"""
        self._compiled = CompiledStep(lm, self.cache, self.steering, rows=compiled_rows) if compiled_rows else None

    @torch.inference_mode()
    def read(
        self, first: int, rows: Sequence[Sequence[int]], lengths: Sequence[int], offsets: Sequence[int], *, whole: bool
    ) -> Tensor:
        """One pass: each of the slots from `first` on reads its tokens, `rows`, behind the `lengths` it holds.

        `offsets` are those of each row's first new token (see `steering.plan`). Float32 logits after each row's last
        token, (rows, vocab); with `whole`, after every column, (rows, columns, vocab), shorter rows padded on the left.
        Raises SteeringNotApplied when a plan's edits did not happen.
        """
        new = [len(row) for row in rows]
        window = self.cache.open(first, lengths, new)
        device = self.lm.device
        if self._compiled is not None and not whole and self._compiled.suits(window):
            return self._compiled([token for (token,) in rows], window, offsets)
        if window.width == 1:
            ids, places = torch.tensor(rows), torch.tensor(offsets).unsqueeze(1)
        else:
            ids = torch.zeros(len(rows), window.width, dtype=torch.long)
            places = torch.full_like(ids, PAD)
            for at, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
                ids[at, window.width - len(row) :] = torch.tensor(row)
                places[at, window.width - len(row) :] = torch.arange(offset, offset + len(row))
        inputs: dict[str, Any] = {"input_ids": ids.to(device), self._cache_name: self.cache}
        columns = torch.arange(window.width)
        if self._takes_positions:
            inputs["position_ids"] = (window.offsets[:, None] + columns).clamp_min(0).to(device)
        if self._takes_mask and min(new) < window.width:
            inputs["attention_mask"] = (columns >= window.width - torch.tensor(new)[:, None]).long().to(device)
        if self._takes_keep and not whole:
            inputs["logits_to_keep"] = 1
        controllers = self.steering.open(first, places)
        with steer(self.lm.model, controllers), held(self.lm.model, self.cache, self.steering.state_edits()):
            logits = self._call(inputs)
        self.steering.close()
        return (logits if whole else logits[:, -1]).float()

    def _call(self, inputs: dict[str, Any]) -> Tensor:
        packed = nullcontext() if self._packed is None else self._packed.used()
        with torch.inference_mode(), slot_attention(self.lm.model), packed:
            logits: Tensor = self.lm.model(**inputs, use_cache=True).logits
        return logits

    def _continues(self) -> bool:
        """Read something in one pass and in two, and compare what the recurrent layers remember of it."""
        states = [state for layer in self.cache.layers if isinstance(layer, SlotState) for state in layer.states]
        if not states:
            return True
        tokens = [1, 2, 3, 4, 5, 6]
        self.read(0, [tokens], [0], [-6], whole=False)
        once = [state[0].float().clone() for state in states]
        self.read(0, [tokens[:3]], [0], [-6], whole=False)
        self.read(0, [tokens[3:]], [3], [-3], whole=False)
        return all(
            float((state[0].float() - whole).norm()) <= _CLOSE * float(whole.norm())
            for state, whole in zip(states, once, strict=True)
        )
