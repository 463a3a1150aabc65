"""Scorers: a text in, a number in [0, 1] out, and an honest word on where the number comes from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

WORDLESS = "it has no letter and no digit"


@dataclass(frozen=True)
class ScorerCard:
    """What a reader must know before trusting a score."""

    name: str
    """As in a spec and in the column `score.<name>`, but never with a path or an address."""
    family: str
    """Kind of model; two scorers of one family are one opinion."""
    revision: str
    trained_on: str
    """In words; begins with "nothing" when nothing was fitted, with "not stated" when nobody says."""
    higher_is: str
    """What a score near 1 means: "toxic", "positive"."""
    data: tuple[str, ...] = ()
    """Names of those data sets as they stand in probe manifests, in lower case: ("jigsaw", "davidson")."""


class Score(NamedTuple):
    """One text's score; NaN with the reason where the text cannot be scored, never a quiet zero."""

    value: float
    reason: str = ""


def unscored(reason: str) -> Score:
    """No score, and why."""
    return Score(math.nan, reason)


def has_word(text: str) -> bool:
    """Whether `text` has a letter or digit: a row of dots says nothing, which is no praise of what made it."""
    return any(character.isalnum() for character in text)


class Scorer(ABC):
    """Scores texts by themselves: only the continuation is given, never the prompt.

    What it runs on is loaded when it is made, so a scorer that exists can score; until then it raises ModelError with
    the way out.
    """

    card: ScorerCard

    @abstractmethod
    def judge(self, texts: Sequence[str]) -> list[Score]:
        """One score per text, in order."""

    def score(self, texts: Sequence[str]) -> list[float]:
        """The values alone; NaN for a text that cannot be scored."""
        return [found.value for found in self.judge(texts)]


def judge_words(texts: Sequence[str], values: Sequence[float]) -> list[Score]:
    """`values` where they are numbers and their texts have a word."""
    return [_judge(text, float(value)) for text, value in zip(texts, values, strict=True)]


def _judge(text: str, value: float) -> Score:
    if not has_word(text):
        return unscored(WORDLESS)
    return Score(value) if math.isfinite(value) else unscored(f"the scorer gave {value}")
