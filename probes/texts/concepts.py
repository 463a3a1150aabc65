"""Several concepts from one file, as one corpus each over the same texts in the same order.

Multi-class: one label column with three or more classes gives one corpus per class, that class against all others.
Multi-label: several columns, each 0/1 or a score, give one corpus per column. Since a split depends on text and group
alone, the corpora divide alike, and one harvest of activations serves them all.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from probes.errors import CorpusError
from probes.texts.corpus import Corpus, Row, require_both_classes
from probes.texts.labels import Columns, Labeller, class_name
from probes.texts.quality import Gates, Sifted, report_of, sift
from probes.texts.reading import row_of
from probes.texts.sources import Source, find_source

MOST_CLASSES = 100


def read_concepts(
    path: Path,
    *,
    columns: Columns | None = None,
    label_columns: Sequence[str] = (),
    drop_duplicates: bool = False,
    max_label_noise: float = 0.0,
) -> dict[str, Corpus]:
    """Concept -> its corpus; concepts are class names in alphabetical order, or the names in `label_columns`.

    `label_columns` (two or more) makes it multi-label, with `columns.threshold` for scores; without them
    `columns.label` is read as classes. A text that stands under two classes, or with two sets of labels, is label
    noise. Raises CorpusError as `sources.find_source` and `quality.sift`, for fewer than three or more than
    `MOST_CLASSES` classes, a concept that all or no texts show, and what `labels.Labeller` refuses.
    """
    columns = columns or Columns()
    if columns.positive is not None or (columns.threshold is not None and not label_columns):
        raise CorpusError(
            "several concepts are read from classes or from several columns of 0/1 or scores; --positive, and "
            "--threshold with one column, name a single concept: leave them off",
            param="label_column",
        )
    if label_columns and (len(label_columns) < 2 or len(set(label_columns)) < len(label_columns)):
        raise CorpusError(
            f"label columns {', '.join(label_columns)}: expected two or more different ones", param="label_column"
        )
    source = find_source(path)
    read = _by_column(source, columns, label_columns) if label_columns else _by_class(source, columns)
    gates = Gates(drop_duplicates=drop_duplicates, max_label_noise=max_label_noise)
    sifted = sift(source.name, read.rows, read.labels, gates=gates)
    return {name: _corpus(f"{source.name}, {name}", read, sifted, marks) for name, marks in read.concepts.items()}


@dataclass(frozen=True)
class _Read:
    rows: Sequence[Row]
    """With label 0 throughout."""
    labels: Sequence[Hashable]
    """What rows of one text must agree in."""
    concepts: Mapping[str, Sequence[int]]
    """Concept -> 0 or 1 for each row."""


def _by_class(source: Source, columns: Columns) -> _Read:
    known = source.classes.get(columns.label)
    rows: list[Row] = []
    classes: list[str] = []
    found: set[str] = set()
    for number, record in source.records():
        value = source.value(number, record, columns.label, flag="--label-column")
        if value is None or value == "":
            raise CorpusError(f"{source.path}, row {number}: '{columns.label}' is empty; label the row or remove it")
        classes.append(class_name(str(source.path), number, value, column=columns.label, classes=known))
        found.add(classes[-1])
        if len(found) > MOST_CLASSES:
            raise CorpusError(
                f"{source.path}: '{columns.label}' has more than {MOST_CLASSES} classes; is it the right column? "
                "Name another with --label-column",
                param="label_column",
            )
        rows.append(row_of(source, number, record, columns, label=0))
    if rows and len(found) < 3:
        raise CorpusError(
            f"{source.path}: '{columns.label}' has {len(found)} classes, expected three or more; two classes are one "
            "concept: say with --positive which one means that it is present",
            param="label_column",
        )
    return _Read(rows, classes, {name: [int(own == name) for own in classes] for name in sorted(found)})


def _by_column(source: Source, columns: Columns, names: Sequence[str]) -> _Read:
    where = str(source.path)
    readers = [Labeller(where, columns, column=name, classes=source.classes.get(name)) for name in names]
    rows: list[Row] = []
    labels: list[tuple[int, ...]] = []
    for number, record in source.records():
        values = [source.value(number, record, name, flag="--label-column") for name in names]
        labels.append(tuple(read(number, value) for read, value in zip(readers, values, strict=True)))
        rows.append(row_of(source, number, record, columns, label=0))
    return _Read(rows, labels, {name: [of[at] for of in labels] for at, name in enumerate(names)})


def _corpus(name: str, read: _Read, sifted: Sifted, marks: Sequence[int]) -> Corpus:
    rows = tuple(replace(row, label=marks[at]) for row, at in zip(sifted.rows, sifted.kept, strict=True))
    corpus = Corpus(name=name, rows=rows, joined=sifted.joined)
    require_both_classes(corpus)
    return replace(corpus, reports=(report_of(corpus, sifted, texts=len(read.rows)),))
