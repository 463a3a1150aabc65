"""Profanity by word counts, from the package alt-profanity-check."""

from __future__ import annotations

from collections.abc import Sequence

from steering.errors import ModelError
from steering.scorers.base import Score, Scorer, ScorerCard, judge_words


class AltProfanity(Scorer):
    """`alt-profanity-check`: word counts and a linear SVM whose weights come inside the package. P(profane).

    It sees words, not meaning: insults without profanity pass, so a low score is weak evidence of harmlessness.
    Raises ModelError when the extra is not installed.
    """

    def __init__(self) -> None:
        try:
            from importlib.metadata import version

            from profanity_check import predict_prob
        except ImportError as error:
            raise ModelError(
                "the scorer alt-profanity-check is not installed; pip install 'tiller-lm[eval]'"
            ) from error
        self._predict = predict_prob
        self.card = ScorerCard(
            name="alt-profanity-check",
            family="bag of words, linear SVM",
            revision=version("alt-profanity-check"),
            trained_on="Jigsaw toxic comments and the tweets of Davidson et al. (2017)",
            higher_is="toxic",
            data=("jigsaw toxic", "davidson"),
        )

    def judge(self, texts: Sequence[str]) -> list[Score]:
        return judge_words(texts, self._predict(list(texts))) if texts else []
