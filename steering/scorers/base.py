"""Scorers: a text in, a number in [0, 1] out, and an honest word on where the number comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ScorerCard:
    """What a reader must know before trusting a score."""

    name: str
    family: str
    """Kind of model; two scorers of one family are one opinion."""
    revision: str
    trained_on: str


def has_word(text: str) -> bool:
    """Whether `text` has a letter or digit: a row of dots says nothing, which is no praise of what made it."""
    return any(character.isalnum() for character in text)


class Scorer(Protocol):
    """Scores texts by themselves: only the continuation is given, never the prompt."""

    card: ScorerCard

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """One score per text; NaN for a text without a word to score."""
        ...
