"""Minimal pairs: one record holds a text with the concept and a text without it that differ in little else.

Both sides of a pair, and pairs that share a text, form one group, so that no split tears them apart. A group is named
by a hash of its texts, not by its row: the same pair in two files has the same name, other pairs never have, and
adding rows moves no pair to another split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probes.errors import CorpusError
from probes.texts.corpus import Corpus, Row
from probes.texts.labels import as_group
from probes.texts.quality import Gates, report_of, sift
from probes.texts.sources import Source, find_source

_FLAG = "--pair-columns"


@dataclass(frozen=True)
class PairColumns:
    """Columns of the two sides; a cell is a text or a list of texts (several rewritings)."""

    positive: str = "positive"
    negative: str = "negative"

    @classmethod
    def parse(cls, text: str) -> PairColumns:
        """'toxic,neutral' -> the column with the concept, then the one without. Raises CorpusError."""
        names = [name.strip() for name in text.split(",")]
        if len(names) != 2 or not all(names) or names[0] == names[1]:
            raise CorpusError(
                f"{_FLAG} {text} is not two columns; write the one with the concept, a comma, the one without: "
                "toxic,neutral",
                param="pair_columns",
            )
        return cls(positive=names[0], negative=names[1])


def read_pairs(
    path: Path,
    *,
    columns: PairColumns | None = None,
    group_column: str | None = None,
    name: str | None = None,
    drop_duplicates: bool = False,
    max_label_noise: float = 0.0,
) -> Corpus:
    """The pairs in `path` (a file or FOLDER:SPLIT) as rows, of each pair first the texts without the concept.

    `group_column` says which pairs belong together (an author's): they are one group then, named by it. Where a text is
    left out as a contradiction and its group keeps only one side, that side is left out too. Raises
    CorpusError as `sources.find_source` and `quality.sift`, for a missing column, and for a cell without text.
    """
    columns = columns or PairColumns()
    source = find_source(path)
    rows: list[Row] = []
    for number, record in source.records():
        sides = [_texts(source, number, record, column) for column in (columns.negative, columns.positive)]
        named = None if group_column is None else source.value(number, record, group_column, flag="--group-column")
        group = as_group(named) or _group(sides)
        rows += [Row(number, text, label, group) for label, side in enumerate(sides) for text in side]
    gates = Gates(drop_duplicates=drop_duplicates, max_label_noise=max_label_noise)
    name = name or source.name
    sifted = sift(name, rows, [row.label for row in rows], gates=gates)
    both = {row.group for row in sifted.rows if row.label} & {row.group for row in sifted.rows if not row.label}
    paired = tuple(row for row in sifted.rows if row.group in both)
    corpus = Corpus(name=name, rows=paired, joined=sifted.joined)
    if not paired:
        raise CorpusError(f"{name}: no pair keeps both its sides, since their texts stand under both labels")
    report = report_of(corpus, sifted, texts=len(rows), unpaired=len(sifted.rows) - len(paired))
    return replace(corpus, reports=(report,))


def holds_pairs(source: Source, columns: PairColumns, *, text_column: str) -> bool:
    """Whether the first record has both pair columns and no text column."""
    first = next(source.records(), None)
    return first is not None and text_column not in first[1] and {columns.positive, columns.negative} <= first[1].keys()


def _texts(source: Source, number: int, record: dict[str, Any], column: str) -> list[str]:
    cell = source.value(number, record, column, flag=_FLAG)
    texts = [cell] if isinstance(cell, str) else cell
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise CorpusError(
            f"{source.path}, row {number}: no text in column '{column}'; expected a pair, each side a text or a list "
            f"of texts: complete or remove the row, or check {_FLAG}",
            param="pair_columns",
        )
    return texts


def _group(sides: Sequence[Sequence[str]]) -> str:
    """Hashed as code points, so that invalid Unicode gets as far as the gate that names it."""
    texts = "\n".join(sorted(" ".join(text.casefold().split()) for side in sides for text in side))
    return f"pair {hashlib.sha256(texts.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
