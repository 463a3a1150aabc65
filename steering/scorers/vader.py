"""Sentiment by a lexicon: VADER (Hutto and Gilbert 2014), from the package vaderSentiment."""

from __future__ import annotations

from collections.abc import Sequence

from steering.errors import ModelError
from steering.scorers.base import WORDLESS, Score, Scorer, ScorerCard, has_word, unscored


class Vader(Scorer):
    """`(compound + 1) / 2`: 0 is as negative as it gets, 1 as positive, 0.5 a text without a word of its lexicon.

    Word valences rated by people, with rules for negation, degree and punctuation. It follows words, not opinions:
    irony and praise without its words pass as neutral. Raises ModelError when the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from importlib.metadata import version

            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError as error:
            raise ModelError("the scorer vader is not installed; pip install 'tiller-lm[probes]'") from error
        self._analyser = SentimentIntensityAnalyzer()
        self.card = ScorerCard(
            name="vader",
            family="lexicon and rules",
            revision=version("vaderSentiment"),
            trained_on="nothing: some 7,500 words and emoticons rated by ten people each",
            higher_is="positive",
        )

    def judge(self, texts: Sequence[str]) -> list[Score]:
        return [self._judge(text) for text in texts]

    def _judge(self, text: str) -> Score:
        compound = float(self._analyser.polarity_scores(text)["compound"])
        if not compound and not has_word(text):  # an emoticon has a valence
            return unscored(WORDLESS)
        return Score((compound + 1) / 2)
