"""How a request asks to be decoded. `steering.choosing` carries it out, token by token.

In the order of Transformers' `generate`: `logit_bias` and the penalties act on the logits, then come temperature,
top_k, top_p and min_p. Every field is neutral by default: such a row is drawn from the model's own distribution.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steering.errors import InvalidRequest

MAX_BIAS = 100.0
MAX_PENALTY = 2.0
"""Of presence and frequency, either way; as OpenAI and vLLM have it."""


@dataclass(frozen=True)
class Sampling:
    """How one request is decoded. Raises InvalidRequest, naming the field, for values outside their range."""

    max_tokens: int = 64
    """New tokens at most; at least 1."""
    temperature: float = 1.0
    """0 is greedy; otherwise logits are divided by it."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this, in (0, 1]. Measured on what top_k left."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 keeps all. Of equals at the edge, those of the lowest ids."""
    min_p: float = 0.0
    """Only tokens at least this many times as probable as the likeliest, in [0, 1] (arXiv 2407.01082)."""
    repetition_penalty: float = 1.0
    """Positive logits of tokens in the prompt or the new text are divided by it, negative ones multiplied (CTRL,
    arXiv 1909.05858); above 1 they become rarer. Above 0."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token in the new text, in [-2, 2]."""
    frequency_penalty: float = 0.0
    """Subtracted as often as the token stands in the new text, in [-2, 2]."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the logits of these token ids, in [-100, 100]; -100 bans a token in practice."""
    seed: int = 0
    """Of this row's generator."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    stop_ids: tuple[int, ...] = ()
    """And before the first of these tokens, which is still among the token ids; `ignore_eos` does not touch them."""
    ignore_eos: bool = False
    """Go on after end-of-text, for measurements that need a fixed length."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))  # a copy nobody else holds
        if self.max_tokens < 1:
            self._refuse("max_tokens", "a whole number of at least 1")
        if not 0.0 <= self.temperature < math.inf:
            self._refuse("temperature", "a finite number of at least 0 (0 is greedy)")
        if not 0.0 < self.top_p <= 1.0:
            self._refuse("top_p", "a number above 0 and at most 1 (1 keeps every token)")
        if self.top_k < 0:
            self._refuse("top_k", "a whole number of at least 0 (0 keeps every token)")
        if not 0.0 <= self.min_p <= 1.0:
            self._refuse("min_p", "a number from 0 to 1 (0 keeps every token)")
        if not 0.0 < self.repetition_penalty < math.inf:
            self._refuse("repetition_penalty", "a finite number above 0 (1 changes nothing)")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) <= MAX_PENALTY:
                self._refuse(name, "a number from -2 to 2 (0 changes nothing)")
        for token, bias in self.logit_bias.items():
            if token < 0 or not abs(bias) <= MAX_BIAS:
                self._refuse("logit_bias", "token ids from 0 and numbers from -100 to 100", found={token: bias})
        if not 0 <= self.seed < 2**63:
            self._refuse("seed", "a whole number from 0 to 2^63 - 1")
        if any(not text for text in self.stop):
            self._refuse("stop", "strings that are not empty")
        if any(token < 0 for token in self.stop_ids):
            self._refuse("stop_ids", "token ids from 0")

    def check_vocabulary(self, size: int) -> None:
        """Raise InvalidRequest, its `param` the field, when a token id is none of the `size` the model has."""
        named = {"logit_bias": ("bias", self.logit_bias), "stop_ids": ("stop at", self.stop_ids)}
        for param, (use, tokens) in named.items():
            for token in tokens:
                if token >= size:
                    raise InvalidRequest(
                        f"there is no token {token} to {use}; expected ids from 0 to {size - 1}", param=param
                    )

    def _refuse(self, param: str, expected: str, *, found: Any = None) -> None:
        value = json.dumps(getattr(self, param) if found is None else found)
        raise InvalidRequest(f"{param} is {value}; expected {expected}", param=param)
