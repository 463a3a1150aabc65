"""Numbered Parquet files in a folder, each whole or absent: written aside, flushed to disk, then renamed.

A process killed at any moment leaves at most a file aside, which the next run removes. A full disk is one clear error,
and everything finished before it is kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eval.runner.errors import RunStopped

_ASIDE = ".tmp"


class Parts:
    """The parts of one table, `part-00000.parquet` and so on, all of one schema."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder = folder
        self.schema = schema
        with kept_whole(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"*{_ASIDE}"):
                leftover.unlink()

    def has(self, index: int, *, rows: int) -> bool:
        """Whether a part is there, undamaged, of this schema and with as many rows; one that is not is removed."""
        path = self._path(index)
        if not path.is_file():
            return False
        try:
            found = pq.read_table(path, page_checksum_verification=True)
            whole = bool(found.num_rows == rows and found.schema.equals(self.schema))
        except (OSError, pa.ArrowException):
            whole = False
        if not whole:
            path.unlink()
        return whole

    def read(self, index: int) -> pa.Table:
        """One part."""
        return pq.read_table(self._path(index), schema=self.schema)

    def write(self, index: int, columns: dict[str, list[object]]) -> None:
        """Keep one part. Raises RunStopped when it cannot be written."""
        write_table(self._path(index), pa.table(columns, schema=self.schema))

    def _path(self, index: int) -> Path:
        return self.folder / f"part-{index:05d}.parquet"


@contextmanager
def kept_whole(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into RunStopped that names `path` and the way out."""
    try:
        yield
    except OSError as error:
        raise RunStopped(
            f"{path} cannot be written ({error.strerror or error}); what is finished is kept: free some space or mend "
            "the folder, and run the same command again"
        ) from error


def write_table(path: Path, table: pa.Table) -> None:
    """`table` as a Parquet file, whole or not at all. Raises RunStopped."""
    _write_aside(path, lambda aside: pq.write_table(table, aside, compression="zstd", write_page_checksum=True))


def write_text(path: Path, text: str) -> None:
    """The same for text."""
    _write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def _write_aside(path: Path, write: Callable[[Path], object]) -> None:
    aside = path.with_name(f".{path.name}{_ASIDE}")
    with kept_whole(path):
        try:
            write(aside)
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
