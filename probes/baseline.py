"""The lexical baseline: what the words alone give away, without any language model.

TF-IDF of words and word pairs (lower-cased, sublinear counts) and logistic regression, fitted on the same training
texts as the probe. A probe that does not beat it out of domain has learnt a word list.
"""

from __future__ import annotations

from collections.abc import Mapping

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from probes.corpus import Corpus
from probes.errors import CorpusError
from probes.metrics import auroc

NAME = "tf-idf words"


def lexical_baseline(train: Corpus, tests: Mapping[str, Corpus]) -> dict[str, float]:
    """AUROC of the baseline on each test set, by the names given.

    Words are runs of letters and digits, one letter included, so that every script and short texts count. Raises
    CorpusError when the training texts hold no words at all.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=1, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    pipeline = make_pipeline(words, LogisticRegression(C=10.0, max_iter=2000))
    try:
        pipeline.fit(train.texts, train.labels)
    except ValueError as error:
        raise CorpusError(f"{train.name}: no text holds a word, so there is no lexical baseline ({error})") from None
    return {name: auroc(pipeline.decision_function(test.texts), test.labels) for name, test in tests.items()}
