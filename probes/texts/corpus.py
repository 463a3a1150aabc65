"""Labelled texts as a value: rows with a 0/1 label, identified by a hash, with a report of what was found in them.

A text is stored as it was read; nothing is stripped. Two texts count as the same when they agree after case folding
and collapsing of white space: that is what near-verbatim copies of one comment differ in. `reading.py` makes a corpus
from a file, `quality.py` checks it, `splits.py` divides one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from probes.errors import CorpusError

IMBALANCE = 0.2
"""Below this share of the rarer class a corpus is reported as imbalanced."""
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


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """What was found in one file, and what of it was kept; for the card and the terminal. It holds no text."""

    name: str
    texts: int
    """Read, before anything was left out."""
    counts: Mapping[str, int]
    """Kept per label: {"0": 2100, "1": 2100}."""
    duplicates: int = 0
    """Left out because the same text stands earlier under the same label."""
    contradictory: int = 0
    """Different texts that stand under both labels; all their rows are left out."""
    unpaired: int = 0
    """Left out because the other side of their pair was."""
    joined_groups: int = 0
    """Groups put together with another because they share a text."""

    @property
    def minority(self) -> float:
        """Share of the rarer class among the texts that were kept, 0..0.5."""
        return min(self.counts.values()) / max(1, sum(self.counts.values()))

    @property
    def imbalanced(self) -> bool:
        """Whether the rarer class makes up less than `IMBALANCE` of the texts."""
        return self.minority < IMBALANCE

    @property
    def findings(self) -> list[str]:
        """One line for each thing a reader should know; empty: every text was kept and the classes are balanced."""
        found = {
            f"{self.duplicates} repeated texts left out": self.duplicates,
            f"{self.contradictory} texts under both labels left out": self.contradictory,
            f"{self.unpaired} texts left out with the other side of their pair": self.unpaired,
            f"{self.joined_groups} groups joined to another that shares a text": self.joined_groups,
            f"class imbalance: label {self._rarer} has {self.minority:.1%} of {sum(self.counts.values())} texts; read "
            "its AUROC rather than its accuracy": self.imbalanced,
        }
        return [f"{self.name}: {line}" for line, holds in found.items() if holds]

    @property
    def _rarer(self) -> str:
        return min(self.counts, key=lambda label: self.counts[label])


@dataclass(frozen=True)
class Corpus:
    """Labelled texts of one origin. `name` is how messages and reports call it; it is never compared."""

    name: str
    rows: tuple[Row, ...]
    reports: tuple[CorpusReport, ...] = field(default=(), compare=False)
    """One for each file it was read from; none for texts that were made or divided here."""
    joined: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Groups that no row names any more -> the group they were put together with, since the two share a text."""

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

    @cached_property
    def texts_sha256(self) -> str:
        """Over the texts alone, in order: what activations depend on, whatever the labels."""
        digest = hashlib.sha256()
        for row in self.rows:
            encoded = row.text.encode()
            digest.update(f"{len(encoded)}:".encode())
            digest.update(encoded)
        return digest.hexdigest()

    @property
    def groups(self) -> set[str]:
        """Names of all groups that rows belong to, joined ones included."""
        named = {row.group for row in self.rows if row.group is not None}
        return named | {name for name, into in self.joined.items() if into in named}

    def named_in(self, groups: Collection[str]) -> set[str]:
        """What the rows of `groups` carry as their group here, where some were joined to others."""
        return {self.joined.get(group, group) for group in groups}

    def renamed(self, name: str) -> Corpus:
        """The same rows under another name."""
        return replace(self, name=name, reports=tuple(replace(report, name=name) for report in self.reports))


def text_key(text: str) -> str:
    """SHA-256 of `text` after case folding and collapsing of white space."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def require_both_classes(corpus: Corpus) -> None:
    """Raise CorpusError unless `corpus` has texts of both labels."""
    counts = corpus.counts
    if 0 in counts.values():
        present = "1" if counts["1"] else "0"
        raise CorpusError(
            f"{corpus.name}: all {len(corpus)} texts have label {present}; a probe separates two classes, so texts "
            "with and without the concept are needed: add the other class, or check --label-column, --positive and "
            "--threshold"
        )


def combine(name: str, corpora: Sequence[Corpus]) -> Corpus:
    """Several corpora as one, rows in order; row numbers stay those of their files.

    Raises CorpusError when two of them share a text: it would count twice, or stand under both labels.
    """
    home: dict[str, Corpus] = {}
    for corpus in corpora:
        shared = [row.number for row in corpus.rows if home.setdefault(row.key, corpus) is not corpus]
        if shared:
            raise CorpusError(
                f"{corpus.name}: {name_rows(shared)} also in another file of {name} (compared without case and "
                "spacing); such texts would count twice: remove them from one of the files"
            )
    return Corpus(
        name=name,
        rows=tuple(row for corpus in corpora for row in corpus.rows),
        reports=tuple(report for corpus in corpora for report in corpus.reports),
        joined={group: into for corpus in corpora for group, into in corpus.joined.items()},
    )


def name_rows(numbers: Iterable[int]) -> str:
    """[3] -> 'row 3 is'; [3, 7] -> 'rows 3, 7 are'; many are cut short and counted. For 'X is/are a repetition'."""
    listed = list(numbers)
    if len(listed) == 1:
        return f"row {listed[0]} is"
    shown = ", ".join(str(number) for number in listed[:_SHOWN])
    return f"rows {shown} are" if len(listed) <= _SHOWN else f"rows {shown} and {len(listed) - _SHOWN} more are"
