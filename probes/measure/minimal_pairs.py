"""Accuracy on minimal pairs: of two texts that say the same, does the one with the concept get the higher score?

Topic, length and style are (nearly) the same on both sides, so what separates corpora without being the concept does
not help here. The two sides are compared with each other and no threshold is used. A pair is a group of a corpus, as
`probes/texts/pairs.py` reads them; where it has several texts on a side (rewritings), its accuracy is the mean over all
combinations, and it still counts once.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from probes.errors import CorpusError
from probes.measure.intervals import wilson
from probes.texts.corpus import Corpus
from steering.manifest import PairMetrics


def pair_metrics(scores: NDArray[np.float64], pairs: Corpus) -> PairMetrics:
    """How often the text with the concept has the higher of `scores` (texts,), ties counting one half.

    The interval takes the pairs to be independent. Raises CorpusError as `require_pairs`.
    """
    accuracies = []
    for without, with_it in require_pairs(pairs):
        apart = scores[with_it][:, None] - scores[without][None, :]
        accuracies.append(float((np.sign(apart).mean() + 1) / 2))
    wins, count = float(np.sum(accuracies)), len(accuracies)
    return PairMetrics(n=count, accuracy=wins / count, interval=wilson(wins, count))


def require_pairs(pairs: Corpus) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Per pair the positions of its texts without the concept and of those with it.

    Raises CorpusError when a row has no group or a group has one side only, and when there is no pair at all.
    """
    sides: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for at, row in enumerate(pairs.rows):
        if row.group is None:
            raise CorpusError(f"{pairs.name}, row {row.number}: belongs to no pair; give pairs of texts", param="pairs")
        sides[row.group][row.label].append(at)
    for without, with_it in sides.values():
        if not without or not with_it:
            only = pairs.rows[(without or with_it)[0]]
            raise CorpusError(
                f"{pairs.name}, row {only.number}: the pair has texts of label {only.label} only; expected a text with "
                "and one without the concept",
                param="pairs",
            )
    if not sides:
        raise CorpusError(f"{pairs.name} holds no pairs", param="pairs")
    return [(np.array(without), np.array(with_it)) for without, with_it in sides.values()]
