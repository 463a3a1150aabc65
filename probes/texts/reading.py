"""A checked corpus from a file or dataset folder: one text and one label per row, or pairs.

`sources.py` finds the rows, `labels.py` reads the labels, `quality.py` checks what came out; `pairs.py` and
`concepts.py` read the other two shapes that labelled texts come in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from probes.texts.corpus import Corpus, Row
from probes.texts.formats import Record
from probes.texts.labels import Columns, Labeller, as_group, as_text
from probes.texts.pairs import PairColumns, holds_pairs, read_pairs
from probes.texts.quality import checked
from probes.texts.sources import Source, find_source


def read_corpus(
    path: Path,
    *,
    columns: Columns | None = None,
    name: str | None = None,
    drop_duplicates: bool = False,
    max_label_noise: float = 0.0,
) -> Corpus:
    """The checked corpus in `path`, a file or FOLDER:SPLIT; `name` defaults to the file name without its endings.

    Raises CorpusError: what `sources.find_source` and `formats.read_file` refuse, a missing column, a label that is
    not binary, and everything `quality.checked` refuses. Texts are never quoted.
    """
    columns = columns or Columns()
    source = find_source(path)
    label = Labeller(str(source.path), columns, column=columns.label, classes=source.classes.get(columns.label))
    rows = []
    for number, record in source.records():
        value = source.value(number, record, columns.label, flag="--label-column")
        rows.append(row_of(source, number, record, columns, label=label(number, value)))
    label.finish()
    corpus = Corpus(name=name or source.name, rows=tuple(rows))
    return checked(corpus, drop_duplicates=drop_duplicates, max_label_noise=max_label_noise)


def read_texts(
    path: Path,
    *,
    columns: Columns,
    pair_columns: PairColumns,
    name: str | None = None,
    drop_duplicates: bool = False,
    max_label_noise: float = 0.0,
) -> Corpus:
    """As `read_pairs` where the first record has both pair columns and no text column, else as `read_corpus`."""
    if holds_pairs(find_source(path), pair_columns, text_column=columns.text):
        return read_pairs(
            path,
            columns=pair_columns,
            group_column=columns.group,
            name=name,
            drop_duplicates=drop_duplicates,
            max_label_noise=max_label_noise,
        )
    return read_corpus(
        path, columns=columns, name=name, drop_duplicates=drop_duplicates, max_label_noise=max_label_noise
    )


def read_records(path: Path) -> Iterator[Record]:
    """The rows of a file or FOLDER:SPLIT as dictionaries with their numbers, unchecked. Raises CorpusError."""
    yield from find_source(path).records()


def row_of(source: Source, number: int, record: Mapping[str, Any], columns: Columns, *, label: int) -> Row:
    """Text and group of one record, with the label that was read from it. Raises CorpusError."""
    text = source.value(number, record, columns.text, flag="--text-column")
    group = None
    if columns.group is not None:
        group = as_group(source.value(number, record, columns.group, flag="--group-column"))
    return Row(number, as_text(str(source.path), number, text, column=columns.text), label, group)
