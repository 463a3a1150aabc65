"""Rows of one file, whatever its format: JSON Lines, CSV, Parquet or Arrow, each row a dictionary with its number.

Files are read in batches, so memory does not grow with them. Whatever is wrong with a file becomes a CorpusError that
names the file and the row, never a text. This module knows nothing of labels; `labels.py` reads those.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from probes.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

KNOWN = ".jsonl, .jsonl.gz, .csv, .csv.gz, .parquet or .arrow"
_BATCH = 1024  # rows turned into Python objects at a time
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_LFS = b"version https://git-lfs"
_NAME = re.compile(r"[\w.:/-]{1,40}( [\w.:/-]{1,20}){0,2}", re.ASCII)  # what a column is plausibly called

Record = tuple[int, dict[str, Any]]
"""Row number from 1 (of a JSONL file: the line; of a CSV file: the record after the header), and its columns."""


def format_of(path: Path) -> str | None:
    """`jsonl`, `csv`, `parquet` or `arrow` by the ending of the name; None: not one of them."""
    ending = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending in ("parquet", "arrow"):
        return None if path.name.lower().endswith(".gz") else ending
    return {"jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv"}.get(ending)


def read_file(path: Path) -> Iterator[Record]:
    """The rows of a file with their numbers.

    Raises CorpusError: no such file, unknown ending, damaged or truncated data, invalid UTF-8, a line that is not a
    JSON object, a CSV row longer or shorter than its header, a column name that stands twice.
    """
    if not path.is_file():
        raise CorpusError(f"there is no file {path}; expected labelled texts as {KNOWN}", param="data")
    kind = format_of(path)
    if kind is None:
        raise CorpusError(f"{path}: cannot tell the format from the ending; expected {KNOWN}", param="data")
    with _refusals(path):
        _refuse_lfs_pointer(path)
        if kind == "jsonl":
            with _open(path) as file:
                yield from _json_lines(path, file)
        elif kind == "csv":
            with _open(path) as file:
                yield from _csv(path, file)
        else:
            yield from _arrow(path, kind)


def class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Column -> names of its classes, as `datasets` leaves them in the schema of Parquet and Arrow files."""
    kind = format_of(path)
    if kind not in ("parquet", "arrow"):
        return {}
    with _refusals(path):
        _refuse_lfs_pointer(path)
        metadata = _schema(path, kind).metadata or {}
        try:
            info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
        except (ValueError, AttributeError):
            return {}  # another writer's note under the same key: it says nothing about classes
        return names_of_features(info.get("features") if isinstance(info, dict) else None)


def names_of_features(features: object) -> dict[str, tuple[str, ...]]:
    """Column -> class names, from the `features` of a dataset_info.json, for each column that is a ClassLabel."""
    if not isinstance(features, dict):
        return {}
    return {
        str(column): tuple(map(str, feature["names"]))
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def list_columns(names: Iterable[object]) -> str:
    """Column names for a message. What looks like a text (a file without a header has texts there) is not quoted."""
    shown = [str(name) if _NAME.fullmatch(str(name)) else f"({len(str(name))} characters)" for name in names]
    return ", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "") or "none"


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What reading can raise, as CorpusError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} where none may stand); "
            "save it as UTF-8, for example with iconv"
        ) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise CorpusError(f"{path} is cut short, damaged or not gzip ({error}); fetch it again") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CorpusError(f"{path} cannot be read ({reason}); check its permissions, or write it again") from None


def _refuse_lfs_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise CorpusError(f"{path} is a Git LFS pointer, not the data; fetch the data with: git lfs pull")


def _open(path: Path) -> IO[str]:
    """As text; a byte order mark at the beginning is not part of the first column's name."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _json_lines(path: Path, file: IO[str]) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "unreadable"
            raise CorpusError(
                f"{path}, line {number}: not valid JSON ({reason}); expected one object per line"
            ) from None
        if not isinstance(record, dict):
            raise CorpusError(f"{path}, line {number}: a JSON {type(record).__name__}, expected one object per line")
        yield number, record


def _csv(path: Path, file: IO[str]) -> Iterator[Record]:
    rows = (row for row in csv.reader(file, strict=True) if row)  # blank lines are not rows
    try:
        header = next(rows, [])
        _refuse_repeated_columns(path, header)
        for number, row in enumerate(rows, start=1):
            if len(row) != len(header):
                raise CorpusError(
                    f"{path}, row {number}: {len(row)} fields where the header has {len(header)} columns; put texts "
                    "that contain commas, quotes or line breaks in double quotes"
                )
            yield number, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise CorpusError(
            f"{path} is not valid CSV ({error}); expected a header line and comma-separated rows, no field of more "
            f"than {csv.field_size_limit():,} characters (JSON Lines has no such limit)"
        ) from None


def _arrow(path: Path, kind: str) -> Iterator[Record]:
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path, kind):
            _refuse_repeated_columns(path, batch.schema.names)
            for start in range(0, batch.num_rows, _BATCH):
                for record in batch.slice(start, _BATCH).to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, kind, error) from None


def _batches(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with pq.ParquetFile(path, pre_buffer=False) as file:  # buffered, it keeps every row group it has read
            yield from file.iter_batches(batch_size=_BATCH)
        return
    with pa.memory_map(str(path)) as raw:
        if raw.read(6) == b"ARROW1":
            raw.seek(0)
            random_access = pa.ipc.open_file(raw)
            yield from (random_access.get_batch(at) for at in range(random_access.num_record_batches))
            return
        raw.seek(max(0, raw.size() - len(_END_OF_STREAM)))
        if raw.read() != _END_OF_STREAM:  # pyarrow would stop at the cut and say nothing
            raise CorpusError(f"{path} is cut short: the end of an Arrow stream is missing; write or fetch it again")
        raw.seek(0)
        yield from pa.ipc.open_stream(raw)


def _schema(path: Path, kind: str) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if kind == "parquet":
            return pq.read_schema(path)
        with pa.memory_map(str(path)) as raw:
            opened = pa.ipc.open_file if raw.read(6) == b"ARROW1" else pa.ipc.open_stream
            raw.seek(0)
            return opened(raw).schema
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, kind, error) from None


def _unreadable(path: Path, kind: str, error: Exception) -> CorpusError:
    return CorpusError(
        f"{path} is not a readable {kind.title()} file ({type(error).__name__}); write or fetch it again"
    )


def _refuse_repeated_columns(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise CorpusError(
            f"{path}: the column {list_columns(twice)} stands more than once, so it is not known which one is meant; "
            "rename one of them"
        )
