"""One continuation of a run, as one row of `samples.parquet`, and the same by prompt, as the metrics take them.

arm, prompt_set, prompt_id, stratum, sample, seed       which
continuation, token_ids, finish_reason, prompt_tokens   what was written
steering                                                JSON of the report, null where nothing was steered
seconds
score.<scorer name>                                     one column per scorer, NaN where it could not score
logprob_sum, logprob_tokens                             ln P(continuation | prompt) under the unsteered model
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from eval.metrics import perplexity, repetition
from steering.errors import InvalidRequest

SCORE = "score."

PromptKey = tuple[str, str]
"""(prompt set, prompt id)"""


@dataclass(frozen=True)
class Record:
    """One continuation with everything measured of it."""

    arm: str
    prompt_id: str
    prompt_set: str
    stratum: str | None
    sample: int
    seed: int
    continuation: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    steering: Mapping[str, Any] | None
    seconds: float
    logprob_sum: float
    logprob_tokens: int
    scores: Mapping[str, float]
    """Scorer name -> score"""

    @property
    def key(self) -> PromptKey:
        """Which prompt."""
        return self.prompt_set, self.prompt_id

    @property
    def perplexity(self) -> float:
        """Of the continuation behind its prompt, under the unsteered model; NaN for an empty one."""
        return perplexity(self.logprob_sum, self.logprob_tokens)

    @property
    def repetition(self) -> float:
        """seq-rep-4; NaN for fewer than four tokens."""
        return repetition(self.token_ids)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Record:
        """Of one row as plain values. Raises InvalidRequest that names a column that is missing."""
        try:
            return cls(
                arm=row["arm"],
                prompt_id=row["prompt_id"],
                prompt_set=row["prompt_set"],
                stratum=row["stratum"],
                sample=int(row["sample"]),
                seed=int(row["seed"]),
                continuation=row["continuation"],
                token_ids=tuple(row["token_ids"]),
                finish_reason=row["finish_reason"],
                prompt_tokens=int(row["prompt_tokens"]),
                steering=json.loads(row["steering"]) if row["steering"] else None,
                seconds=float(row["seconds"]),
                logprob_sum=_number(row.get("logprob_sum")),
                logprob_tokens=int(row.get("logprob_tokens") or 0),
                scores={name.removeprefix(SCORE): _number(row[name]) for name in row if name.startswith(SCORE)},
            )
        except KeyError as error:
            raise InvalidRequest(
                f"the samples have no column {error}; expected those of `tiller eval run`: {', '.join(row)} were found"
            ) from None


def read_records(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Record]]:
    """Arm -> its records in the order of prompts and samples, so that arms line up.

    Raises InvalidRequest for a column that is missing, and for a continuation that stands twice.
    """
    arms: dict[str, list[Record]] = {}
    for row in rows:
        record = Record.from_row(row)
        arms.setdefault(record.arm, []).append(record)
    for name, records in arms.items():
        records.sort(key=lambda record: (record.key, record.sample))
        for before, after in pairwise(records):
            if (before.key, before.sample) == (after.key, after.sample):
                raise InvalidRequest(
                    f"arm '{name}' has sample {after.sample} of prompt '{after.prompt_id}' ({after.prompt_set}) twice"
                )
    return arms


def by_prompt(records: Sequence[Record], values: Sequence[float]) -> dict[PromptKey, list[float]]:
    """Prompt -> the values of its samples, for `values` of `records` in the same order."""
    found: dict[PromptKey, list[float]] = {}
    for record, value in zip(records, values, strict=True):
        found.setdefault(record.key, []).append(value)
    return found


def scores_of(records: Sequence[Record], scorer: str) -> list[float]:
    """Scores by one scorer. Raises InvalidRequest, naming those there are, when it did not score them."""
    try:
        return [record.scores[scorer] for record in records]
    except KeyError:
        known = sorted({name for record in records for name in record.scores})
        raise InvalidRequest(
            f"'{scorer}' did not score every sample; scores by {', '.join(known) or 'nobody'} are there. "
            "`tiller eval rescore` adds a scorer without generating again",
            param="scorer",
        ) from None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
