"""Baselines that read no hidden states: what words, and mere length, give away. Each stands beside every figure.

    tf-idf words   TF-IDF of words and word pairs (lower-cased, sublinear counts) and logistic regression
    length         logistic regression on the logarithms of the counts of characters and of words

Both are fitted on the same training texts as the probe. A probe that does not beat the first out of domain has learnt
a word list; one that does not beat the second, how long the texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.errors import CorpusError
from probes.measure.metrics import auroc
from probes.measure.minimal_pairs import pair_metrics
from probes.texts.corpus import Corpus

NAME = "tf-idf words"
LENGTH = "length"
PAIRS = "pairs-"
"""Before the name of a set of minimal pairs, whose figure is an accuracy; without it, an AUROC."""

Scores = Callable[[Sequence[str]], NDArray[np.float64]]
"""Texts -> numbers (texts,) that rise with the concept."""


def lexical_scores(train: Corpus) -> Scores:
    """The lexical baseline, fitted on `train`.

    Words are runs of letters and digits, one letter included, so that every script and short texts count. Raises
    CorpusError when the training texts hold no words at all.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=1, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    pipeline = make_pipeline(words, LogisticRegression(C=10.0, max_iter=2000))
    try:
        pipeline.fit(train.texts, train.labels)
    except ValueError as error:
        raise CorpusError(f"{train.name}: no text holds a word, so there is no lexical baseline ({error})") from None
    return lambda texts: np.asarray(pipeline.decision_function(texts), dtype=np.float64)


def length_scores(train: Corpus) -> Scores:
    """The length baseline, fitted on `train`."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    pipeline.fit(_lengths(train.texts), train.labels)
    return lambda texts: np.asarray(pipeline.decision_function(_lengths(texts)), dtype=np.float64)


BASELINES: Mapping[str, Callable[[Corpus], Scores]] = MappingProxyType({NAME: lexical_scores, LENGTH: length_scores})
"""By the names the manifest gives them."""


def measure_baselines(
    train: Corpus, tests: Mapping[str, Corpus], *, pairs: Mapping[str, Corpus] | None = None
) -> dict[str, dict[str, float]]:
    """Per baseline the AUROC on each test set by its name, and the accuracy on each set of pairs by `PAIRS` + name.

    Raises CorpusError as the baselines do.
    """
    found: dict[str, dict[str, float]] = {}
    for name, fit in BASELINES.items():
        scores = fit(train)
        found[name] = {called: auroc(scores(test.texts), test.labels) for called, test in tests.items()}
        for called, couples in (pairs or {}).items():
            found[name][PAIRS + called] = pair_metrics(scores(couples.texts), couples).accuracy
    return found


def _lengths(texts: Sequence[str]) -> NDArray[np.float64]:
    """(texts, 2): log of 1 + characters, log of 1 + words."""
    return np.log1p(np.array([[len(text), len(text.split())] for text in texts], dtype=np.float64))
