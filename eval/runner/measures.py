"""What is measured of the samples afterwards, part by part and resumable: scores, and log-probabilities.

A measure reads the columns of a part and the prompts' texts and gives its own columns. Only the continuation is scored;
its log-probability is that behind the plain prompt under the unsteered model, whatever the arm gave the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import pyarrow as pa

from eval.fluency import conditional_perplexity
from eval.runner.schema import LOGPROBS, score_column, score_schema
from steering import LanguageModel
from steering.requests import encode
from steering.scorers import Scorer

PromptTexts = Mapping[tuple[str, str], str]
"""(set, id) -> text"""
Ask = Callable[[Sequence[tuple[str, Sequence[int]]]], Sequence[float]]
"""(prompt, tokens behind it) -> ln P(tokens | prompt), of each"""


class Measure(Protocol):
    """One pass over the samples."""

    @property
    def name(self) -> str:
        """Of the folder its parts are kept in."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Of its columns."""
        ...

    @property
    def card(self) -> dict[str, Any]:
        """What its numbers depend on: parts made under another card are made again."""
        ...

    def __call__(self, part: pa.Table) -> dict[str, list[object]]:
        """Its columns for the rows of `part`."""
        ...


class Scores:
    """A scorer's scores of the continuations."""

    def __init__(self, scorer: Scorer) -> None:
        self.name = scorer.card.name
        self.schema = score_schema(self.name)
        self.card = asdict(scorer.card)
        self._scorer = scorer

    def __call__(self, part: pa.Table) -> dict[str, list[object]]:
        texts = part.column("continuation").to_pylist()
        return {score_column(self.name): [float(score) for score in self._scorer.score(texts)]}


class LogProbs:
    """ln P(continuation | prompt) under the unsteered model, and the number of its tokens."""

    name = "logprob"
    schema = LOGPROBS

    def __init__(self, lm: LanguageModel, texts: PromptTexts, *, batch: int = 8) -> None:
        self._lm = lm
        self._texts = texts
        self._batch = batch
        self.card = {"model": lm.info.id, "revision": lm.info.revision, "dtype": lm.info.dtype}

    def __call__(self, part: pa.Table) -> dict[str, list[object]]:
        lm = self._lm
        written: list[Sequence[int]] = part.column("token_ids").to_pylist()
        names = zip(part.column("prompt_set").to_pylist(), part.column("prompt_id").to_pylist(), strict=True)
        pairs = [
            (encode(lm, self._texts[name], max_tokens=max(1, len(ids))), ids)
            for name, ids in zip(names, written, strict=True)
        ]
        perplexities = conditional_perplexity(lm, pairs, batch=self._batch)
        sums = [
            -math.log(perplexity) * len(ids) if ids else 0.0
            for perplexity, ids in zip(perplexities, written, strict=True)
        ]
        return {"logprob_sum": list(sums), "logprob_tokens": [len(ids) for ids in written]}


class RemoteLogProbs:
    """The same, asked of whoever has the model."""

    name = LogProbs.name
    schema = LOGPROBS

    def __init__(self, ask: Ask, model: Mapping[str, Any], texts: PromptTexts) -> None:
        self._ask = ask
        self._texts = texts
        self.card = {name: model.get(name) for name in ("id", "revision", "dtype")} | {"by": "server"}

    def __call__(self, part: pa.Table) -> dict[str, list[object]]:
        written: list[Sequence[int]] = part.column("token_ids").to_pylist()
        names = zip(part.column("prompt_set").to_pylist(), part.column("prompt_id").to_pylist(), strict=True)
        sums = self._ask([(self._texts[name], ids) for name, ids in zip(names, written, strict=True)])
        return {"logprob_sum": list(sums), "logprob_tokens": [len(ids) for ids in written]}
