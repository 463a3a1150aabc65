"""Labelled texts from JSON Lines (`.jsonl`, `.jsonl.gz`), CSV (`.csv`, `.csv.gz`) and Parquet (`.parquet`) files.

One text and one label per row. Labels are 0/1 (numbers, booleans or their digits), or any two values of which
`positive` names the one that means "the concept is present".
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from probes.corpus import Corpus, Row, checked
from probes.errors import CorpusError

_BINARY: dict[str, int] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_KNOWN = ".jsonl, .jsonl.gz, .csv, .csv.gz or .parquet"

Record = tuple[int, dict[str, Any]]
"""Row number from 1, and the columns of that row."""


@dataclass(frozen=True)
class Columns:
    """Where text, label and group stand in a file."""

    text: str = "text"
    label: str = "label"
    positive: str | None = None
    """The label value that means 1; None: labels are 0 and 1 already."""
    group: str | None = None
    """Column whose equal values must stay in one split; None: no such column."""


def read_corpus(
    path: Path, *, columns: Columns | None = None, name: str | None = None, drop_duplicates: bool = False
) -> Corpus:
    """The checked corpus in `path`; `name` defaults to the file name without its endings.

    Raises CorpusError: no such file, unknown ending, invalid UTF-8, a line that is not a JSON object, a missing column,
    a label that is not binary, and everything `corpus.checked` refuses. Texts are never quoted.
    """
    columns = columns or Columns()
    if not path.is_file():
        raise CorpusError(f"there is no file {path}; expected labelled texts as {_KNOWN}", param="data")
    try:
        rows = [_row(path, number, record, columns) for number, record in read_records(path)]
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} where none may stand); "
            "save it as UTF-8, for example with iconv"
        ) from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise CorpusError(f"{path} is damaged or not gzip ({error}); fetch it again") from None
    corpus = Corpus(name=name or path.name.split(".")[0], rows=tuple(rows))
    if columns.positive is not None and rows:
        _check_positive_is_there(path, corpus, columns)
    return checked(corpus, drop_duplicates=drop_duplicates)


def read_records(path: Path) -> Iterator[Record]:
    """The rows of a file with their numbers, whatever its format, as dictionaries. Raises CorpusError."""
    ending = path.name.lower().removesuffix(".gz")
    if ending.endswith((".jsonl", ".ndjson")):
        with _open(path) as file:
            yield from _json_lines(path, file)
    elif ending.endswith(".csv"):
        with _open(path) as file:
            yield from _csv(path, file)
    elif ending.endswith(".parquet"):
        yield from _parquet(path)
    else:
        raise CorpusError(f"{path}: cannot tell the format from the ending; expected {_KNOWN}", param="data")


def _open(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _json_lines(path: Path, file: IO[str]) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); "
                "expected one object per line"
            ) from None
        if not isinstance(record, dict):
            raise CorpusError(f"{path}, line {number}: a JSON {type(record).__name__}, expected one object per line")
        yield number, record


def _csv(path: Path, file: IO[str]) -> Iterator[Record]:
    try:
        for number, record in enumerate(csv.DictReader(file, strict=True), start=1):
            yield number, {key: value for key, value in record.items() if key is not None}
    except csv.Error as error:
        raise CorpusError(
            f"{path} is not valid CSV ({error}); expected a header line and comma-separated rows"
        ) from None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except pa.ArrowException as error:
        raise CorpusError(f"{path} is not a readable Parquet file ({type(error).__name__}); write it again") from None


def _row(path: Path, number: int, record: dict[str, Any], columns: Columns) -> Row:
    text = _column(path, number, record, columns.text, flag="--text-column")
    if text is None:
        text = ""  # refused below as an empty text, together with all the others
    if not isinstance(text, str):
        raise CorpusError(
            f"{path}, row {number}: '{columns.text}' is of type {type(text).__name__}, expected a string; "
            "check --text-column"
        )
    label = _label(path, number, _column(path, number, record, columns.label, flag="--label-column"), columns)
    group = None
    if columns.group is not None:
        group = str(_column(path, number, record, columns.group, flag="--group-column"))
    return Row(number=number, text=text, label=label, group=group)


def _column(path: Path, number: int, record: dict[str, Any], name: str, *, flag: str) -> Any:
    if name not in record:
        raise CorpusError(
            f"{path}, row {number}: no column '{name}'; the columns are: {', '.join(map(str, record)) or 'none'}. "
            f"Name the right one with {flag}",
            param=flag.removeprefix("--").replace("-", "_"),
        )
    return record[name]


def _label(path: Path, number: int, value: Any, columns: Columns) -> int:
    """0 or 1. The value itself stays out of the message: with a wrong column it may be a text."""
    if value is None or value == "":
        raise CorpusError(f"{path}, row {number}: '{columns.label}' is empty; label the row or remove it")
    if columns.positive is not None:
        return int(str(value) == columns.positive)
    try:
        return _BINARY[str(value).lower()]
    except KeyError:
        raise CorpusError(
            f"{path}, row {number}: '{columns.label}' is neither 0 nor 1; for labels that are names (en / es) say "
            "with --positive which one means that the concept is present",
            param="label_column",
        ) from None


def _check_positive_is_there(path: Path, corpus: Corpus, columns: Columns) -> None:
    """With --positive a third label value, or a misspelt one, would pass as 'not the concept' unless looked for."""
    values = {str(record[columns.label]) for _, record in read_records(path)}
    if len(values) > 2:
        raise CorpusError(
            f"{path}: '{columns.label}' has {len(values)} different values, expected two; keep the rows of two classes "
            "or map the labels to 0 and 1",
            param="label_column",
        )
    if columns.positive not in values:
        raise CorpusError(
            f"{path}: no row has '{columns.label}' equal to '{columns.positive}'; check --positive", param="positive"
        )
