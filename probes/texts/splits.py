"""Dividing texts into train, calibration and test so that no text and no group is on two sides.

A row's side depends only on a hash of (seed, its group or its normalised text): equal texts always fall together, and
adding rows moves none of the others. Files given by the user are checked for the same promise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from probes.errors import CorpusError
from probes.texts.corpus import Corpus, Row, name_rows, require_both_classes

RULE = "sha256 of (seed, group or case-folded text with collapsed white space); equal texts fall together"
"""How splits are made, in the words of the manifest."""


def split(corpus: Corpus, shares: Mapping[str, float], *, seed: int = 0) -> dict[str, Corpus]:
    """`corpus` divided at random but reproducibly: {"train": 0.7, ...} -> {"train": Corpus, ...}.

    Shares are scaled to sum to one. Raises CorpusError when a part ends up without one of the classes, or when equal
    texts stand in different groups (they would be torn apart).
    """
    total = sum(shares.values())
    if not shares or total <= 0 or min(shares.values()) < 0:
        raise CorpusError(f"shares {dict(shares)} do not divide anything; expected positive numbers such as 0.7")
    _refuse_torn_groups(corpus)
    parts: dict[str, list[Row]] = {name: [] for name in shares}
    ends, last = dict(zip(shares, accumulate(shares.values()), strict=True)), list(shares)[-1]
    for row in corpus.rows:
        position = _fraction(row.group if row.group is not None else row.key, seed=seed) * total
        side = next((name for name, end in ends.items() if position < end), last)
        parts[side].append(row)
    divided = {name: Corpus(f"{corpus.name} ({name})", tuple(rows)) for name, rows in parts.items()}
    for part in divided.values():
        if not part.rows:
            raise CorpusError(f"{part.name} has no rows; {len(corpus)} texts are too few to divide: add texts")
        require_both_classes(part)
    return divided


def refuse_leakage(train: Corpus, others: Sequence[Corpus]) -> None:
    """Raise CorpusError when a text or a group of `train` also stands in one of `others`, or in two of them.

    A figure on a text that was trained on, or calibrated on, is not evidence; nor is one on the other texts of its
    group (an author, a pair).
    """
    seen: dict[str, Corpus] = {row.key: train for row in train.rows}
    grouped: dict[str, Corpus] = dict.fromkeys(train.groups, train)
    for other in others:
        leaked = [row for row in other.rows if row.key in seen]
        if leaked:
            first = seen[leaked[0].key]
            drop = ", or pass --drop-leaks to leave them out of the training side" if first is train else ""
            raise CorpusError(
                f"{other.name} shares {len(leaked)} texts with {first.name} ({name_rows([r.number for r in leaked])} "
                "there too, compared without case and spacing); a figure on such texts is not evidence: remove them "
                f"from one of the files{drop}"
            )
        shared = sorted(other.groups & grouped.keys())
        if shared:
            first = grouped[shared[0]]
            named = other.named_in(shared)
            rows = [row.number for row in other.rows if row.group in named]
            drop = "pass --drop-leaks to leave such groups out of the training side, " if first is train else ""
            raise CorpusError(
                f"{other.name} shares {len(shared)} groups with {first.name} ({name_rows(rows)} of them); a "
                f"figure on texts of a group that was trained on is not evidence: keep each group in one file, {drop}"
                "or, where equal names mean different groups in the two files, give them different names"
            )
        seen.update((row.key, other) for row in other.rows)
        grouped.update(dict.fromkeys(other.groups, other))


def without(train: Corpus, others: Sequence[Corpus]) -> Corpus:
    """`train` less the texts that stand, or whose group stands, in any of `others`; unchanged when there are none.

    A group stands there by its name, or by any of its texts: the rewritings of a text that is tested on go with it.
    """
    texts = {row.key for other in others for row in other.rows}
    lost = train.named_in(set[str]().union(*(other.groups for other in others)))
    lost |= {row.group for row in train.rows if row.group is not None and row.key in texts}
    kept = tuple(row for row in train.rows if row.key not in texts and row.group not in lost)
    return train if len(kept) == len(train.rows) else replace(train, rows=kept)


def folds(corpus: Corpus, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """(rows,) fold numbers 0..count-1 for cross-validation, by the same hash rule as `split`."""
    keys = (row.group if row.group is not None else row.key for row in corpus.rows)
    return np.array([int(_fraction(f"fold:{key}", seed=seed) * count) for key in keys], dtype=np.int64)


def _refuse_torn_groups(corpus: Corpus) -> None:
    group_of: dict[str, str | None] = {}
    torn = [row.number for row in corpus.rows if group_of.setdefault(row.key, row.group) != row.group]
    if torn:
        raise CorpusError(
            f"{corpus.name}: {name_rows(torn)} a repetition of an earlier text that belongs to another group, so "
            "equal texts would fall into different splits; put them into one group or remove them"
        )


def _fraction(key: str, *, seed: int) -> float:
    """A number in [0, 1) that depends on `key` and `seed` alone."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
