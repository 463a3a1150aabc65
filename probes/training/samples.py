"""The activations of one corpus at one layer as a fit sees them: rows, their labels, and which rows belong together.

With pooling last or mean a row is a text; with all it is a token, whose label is that of its text. Folds and controls
go by text either way, and intervals by text or, where the corpus has groups, by group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.harvest.activations import Activations
from probes.harvest.shards import Floats, Pooling
from probes.methods.samples import Labels
from probes.texts.corpus import Corpus

Texts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Harvested:
    """Activations of everything a probe is trained and measured on; no text it was fitted on stands in the others."""

    train: Activations
    calibration: Activations
    test: Activations
    out_of_domain: Mapping[str, Activations]
    pairs: Mapping[str, Activations]

    def named(self) -> dict[str, Activations]:
        """Every part under the name its activations and counts are kept by."""
        found = {"train": self.train, "calibration": self.calibration, "test": self.test}
        found |= {f"ood-{name}": activations for name, activations in self.out_of_domain.items()}
        return found | {f"pairs-{name}": activations for name, activations in self.pairs.items()}


@dataclass(frozen=True, eq=False)
class Sample:
    """One layer of one corpus."""

    resid: Floats
    """(rows, hidden_size)"""
    corpus: Corpus
    texts: Texts
    """(rows,), the text of each row by its position in the corpus."""

    @property
    def labels(self) -> Labels:
        """(rows,) of 0 and 1."""
        return self.corpus.labels[self.texts]

    @property
    def groups(self) -> Texts:
        """(rows,), equal where rows are of one text or of one group."""
        keys = [f"text {at}" if row.group is None else f"group {row.group}" for at, row in enumerate(self.corpus.rows)]
        return np.unique(keys, return_inverse=True)[1].astype(np.int64)[self.texts]

    def shuffled(self, *, seed: int) -> Labels:
        """(rows,) labels after the texts have exchanged theirs at random; the tokens of a text stay together."""
        return np.random.default_rng(seed).permutation(self.corpus.labels)[self.texts]

    def by_row(self) -> Corpus:
        """The corpus with one entry per row, for fits that go by class."""
        if len(self.texts) == len(self.corpus):
            return self.corpus
        return Corpus(self.corpus.name, tuple(self.corpus.rows[at] for at in self.texts))


def sample(activations: Activations, layer: int, pooling: Pooling) -> Sample:
    """One layer of `activations`, pooled by `pooling`."""
    return Sample(activations.layer(layer, pooling), activations.corpus, activations.owners(pooling))


def fold_rows(activations: Activations, layer: int, pooling: Pooling, by_text: Texts) -> tuple[Floats, Labels, Texts]:
    """Activations (rows, hidden_size), labels (rows,) and folds (rows,) of one layer, from folds `by_text` (texts,)."""
    found = sample(activations, layer, pooling)
    return found.resid, found.labels, by_text[found.texts]
