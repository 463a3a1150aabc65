"""The labeller of windows: TF-IDF of words and of letters within words, and logistic regression.

Fitted on the labelled corpus that is given with `--data`, it says how much a few generated tokens look like the
concept. It reads no hidden states. Whoever labels may not judge: `name` goes into the manifest, and reports and screens
compare it with the name of theirs. It is fitted on whole texts and used on pieces of some words, so its 0.5 is a
convention and no calibrated chance; the base rate at the threshold is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from probes.errors import CorpusError
from probes.measure.metrics import auroc
from probes.texts.corpus import Corpus

C = 10.0


@dataclass(frozen=True, eq=False)
class Labeller:
    """A fitted classifier of short texts."""

    name: str
    auroc: float
    """On the test texts of the corpus, whole."""
    pipeline: Any

    @classmethod
    def fit(cls, train: Corpus, test: Corpus) -> Self:
        """Learn from `train`, measure on `test`. Raises CorpusError when the texts hold no words."""
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True)
        pipeline = make_pipeline(make_union(words, letters), LogisticRegression(C=C, max_iter=2000))
        try:
            pipeline.fit(train.texts, train.labels)
        except ValueError as error:
            raise CorpusError(f"{train.name}: no labeller can be fitted on these texts ({error})") from None
        found = auroc(pipeline.decision_function(test.texts), test.labels)
        return cls(f"tf-idf words and letters, logistic, fitted on {train.name}", found, pipeline)

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(texts,) in [0, 1]. An empty text gets what its words say: nothing but the intercept."""
        if not texts:
            return np.zeros(0)
        found: NDArray[np.float64] = self.pipeline.predict_proba(list(texts))[:, 1]
        return found
