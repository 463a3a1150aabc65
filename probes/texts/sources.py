"""What a user calls a file of texts: a path to one, or a dataset folder with its split, `FOLDER:train`.

A Source is the files of one table in order and the names of its classes where they are numbered; `folders.py` looks
into folders, `formats.py` into files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.errors import CorpusError
from probes.texts.folders import files_of
from probes.texts.formats import KNOWN, Record, class_names, list_columns, read_file


@dataclass(frozen=True)
class Source:
    """One table of rows."""

    path: Path
    """As the user wrote it, for messages."""
    name: str
    files: tuple[Path, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns of numbered classes (`datasets.ClassLabel`) -> the names, by number."""

    def records(self) -> Iterator[Record]:
        """The rows of all files; of several files the numbers run on. Raises CorpusError as `formats.read_file`."""
        before = 0
        for file in self.files:
            number = 0
            for number, record in read_file(file):
                yield before + number, record
            before += number

    def value(self, number: int, record: Mapping[str, Any], column: str, *, flag: str) -> Any:
        """`record[column]`, or CorpusError with the columns there are and the `flag` that names another."""
        if column not in record:
            raise CorpusError(
                f"{self.path}, row {number}: no column '{column}'; the columns are: {list_columns(record)}. "
                f"Name the right one with {flag}",
                param=flag.removeprefix("--").replace("-", "_"),
            )
        return record[column]


def find_source(path: Path) -> Source:
    """The table at `path`: a file, a dataset folder, or FOLDER:SPLIT.

    Raises CorpusError when there is no such file, folder or split, when a folder has several splits and none is
    named, and when a folder holds no data or a mix of formats.
    """
    if path.is_file():
        return Source(path=path, name=path.name.split(".")[0], files=(path,), classes=class_names(path))
    folder, split = _folder_and_split(path)
    try:
        files, classes = files_of(folder, split)
    except OSError as error:
        raise CorpusError(f"{folder} cannot be looked into ({error.strerror}); check its permissions") from None
    name = folder.resolve().name + (f":{split}" if split else "")
    return Source(path=path, name=name, files=files, classes=class_names(files[0]) | classes)


def _folder_and_split(path: Path) -> tuple[Path, str | None]:
    if path.is_dir():
        return path, None
    folder, colon, split = str(path).rpartition(":")
    if colon and split and Path(folder).is_dir():
        return Path(folder), split
    raise CorpusError(
        f"there is no file {path}; expected labelled texts as {KNOWN}, or a dataset folder (FOLDER or FOLDER:train)",
        param="data",
    )
