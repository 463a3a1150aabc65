"""Labelled texts as a value: rows with a 0/1 label, checked once, identified by a hash.

A text is stored as it was read; nothing is stripped. Two texts count as the same when they agree after case folding
and collapsing of white space: that is what near-verbatim copies of one comment differ in. `reading.py` makes a corpus
from a file, `splits.py` divides one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from probes.errors import CorpusError

_SHOWN = 5  # rows named in a message


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text."""

    number: int
    """Where it stands in its file, from 1: the line of a JSONL file, the record of a CSV or Parquet file."""
    text: str
    label: int
    """1: the concept is present, 0: it is not."""
    group: str | None = None
    """Rows of one group (a pair, an author) never part in a split; None: the text is its own group."""

    @property
    def key(self) -> str:
        """SHA-256 of the normalised text: equal keys mean the same text."""
        return text_key(self.text)


@dataclass(frozen=True)
class Corpus:
    """Labelled texts of one origin. `name` is how messages and reports call it; it is never compared."""

    name: str
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return [row.text for row in self.rows]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(rows,) of 0 and 1."""
        return np.array([row.label for row in self.rows], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Texts per label: {"0": 2100, "1": 2100}."""
        positive = sum(row.label for row in self.rows)
        return {"0": len(self.rows) - positive, "1": positive}

    @cached_property
    def sha256(self) -> str:
        """Over labels and texts in order: two corpora with the same hash give the same activations and the same fit."""
        digest = hashlib.sha256()
        for row in self.rows:
            encoded = row.text.encode()
            digest.update(f"{row.label}:{len(encoded)}:".encode())
            digest.update(encoded)
        return digest.hexdigest()

    def renamed(self, name: str) -> Corpus:
        """The same rows under another name."""
        return replace(self, name=name)


def text_key(text: str) -> str:
    """SHA-256 of `text` after case folding and collapsing of white space."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def checked(corpus: Corpus, *, drop_duplicates: bool = False) -> Corpus:
    """`corpus`, fit for training or testing.

    Raises CorpusError for an empty corpus, empty or white-space texts, invalid Unicode, one class only, the same
    text under two labels (label noise), and the same text twice; with `drop_duplicates` the first of equal texts is
    kept instead.
    """
    if not corpus.rows:
        raise CorpusError(f"{corpus.name} has no rows; expected labelled texts, some hundreds of each class or more")
    empty = [row.number for row in corpus.rows if not row.text.strip()]
    if empty:
        raise CorpusError(
            f"{corpus.name}: {name_rows(empty)} empty or only white space; there is nothing to read a concept from: "
            "remove them"
        )
    broken = [row.number for row in corpus.rows if any("\ud800" <= letter <= "\udfff" for letter in row.text)]
    if broken:
        raise CorpusError(
            f"{corpus.name}: {name_rows(broken)} not valid Unicode (half of a surrogate pair), which no tokenizer "
            "accepts; repair or remove them"
        )
    first: dict[str, Row] = {}
    noisy: list[int] = []
    repeated: list[int] = []
    for row in corpus.rows:
        earlier = first.setdefault(row.key, row)
        if earlier is not row:
            (repeated if earlier.label == row.label else noisy).append(row.number)
    if noisy:
        raise CorpusError(
            f"{corpus.name}: {name_rows(noisy)} a repetition of an earlier text under the other label (compared "
            "without case and spacing); a text cannot both show and lack the concept: settle these labels or remove "
            "the rows"
        )
    if repeated and not drop_duplicates:
        raise CorpusError(
            f"{corpus.name}: {name_rows(repeated)} a repetition of an earlier text (compared without case and spacing)"
            "; repeated texts count several times and can leak between splits: remove them, or pass --drop-duplicates "
            "to keep the first of each"
        )
    unique = replace(corpus, rows=tuple(first.values())) if repeated else corpus
    require_both_classes(unique)
    return unique


def require_both_classes(corpus: Corpus) -> None:
    """Raise CorpusError unless `corpus` has texts of both labels."""
    counts = corpus.counts
    if 0 in counts.values():
        present = "1" if counts["1"] else "0"
        raise CorpusError(
            f"{corpus.name}: all {len(corpus)} texts have label {present}; a probe separates two classes, so texts "
            "with and without the concept are needed: add the other class, or check --label-column and --positive"
        )


def combine(name: str, corpora: Sequence[Corpus]) -> Corpus:
    """Several corpora as one, rows in order; row numbers stay those of their files."""
    return Corpus(name=name, rows=tuple(row for corpus in corpora for row in corpus.rows))


def name_rows(numbers: Iterable[int]) -> str:
    """[3] -> 'row 3 is'; [3, 7] -> 'rows 3, 7 are'; many are cut short and counted. For 'X is/are a repetition'."""
    listed = list(numbers)
    if len(listed) == 1:
        return f"row {listed[0]} is"
    shown = ", ".join(str(number) for number in listed[:_SHOWN])
    return f"rows {shown} are" if len(listed) <= _SHOWN else f"rows {shown} and {len(listed) - _SHOWN} more are"
