"""Files that are whole or absent, and known by their SHA-256: what the shards of a harvest are made of.

A file is written beside its place, hashed on the way, flushed to the disk and renamed, so that a kill at any instant
leaves the old state or the new one. What a power cut or a bad disk does to a finished file is found by its hash.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from probes.errors import HarvestError

PARTIAL = ".partial-"
"""Begins the name of every file that is still being written."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Stamp:
    """What a file held when it was written."""

    bytes: int
    sha256: str


class _Hashed:
    """A binary file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Pass `data` on."""
        self._digest.update(data)
        self._bytes += len(data)
        return self._file.write(data)

    @property
    def stamp(self) -> Stamp:
        """Of everything so far."""
        return Stamp(self._bytes, self._digest.hexdigest())


def write_array(path: Path, array: NDArray[np.generic]) -> Stamp:
    """Put `array` at `path` as .npy. Raises OSError, and leaves nothing, when it does not fit."""
    return _put(path, lambda file: np.save(cast(BinaryIO, file), array, allow_pickle=False))


def write_json(path: Path, value: Mapping[str, object]) -> Stamp:
    """Put `value` at `path`. Raises OSError, and leaves nothing, when it does not fit."""
    return _put(path, lambda file: file.write((json.dumps(value, indent=1) + "\n").encode()))


def read_json(path: Path) -> dict[str, object] | None:
    """The object at `path`, or None when there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None


def stamp_of(path: Path) -> Stamp:
    """Size and hash of the file at `path` as it is now, read in small pieces. Raises OSError."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            count += len(chunk)
    return Stamp(count, digest.hexdigest())


def hash_of(value: Mapping[str, object]) -> str:
    """SHA-256 of a JSON object, whatever its layout on disk."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def disk_errors(folder: Path, *, no_space: Callable[[], str]) -> Iterator[None]:
    """Turn an OSError into a HarvestError that names `folder` and the way out; `no_space` words a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise HarvestError(no_space(), param="work") from error
        blocked = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
        why = f"{blocked} is a file, not a folder" if blocked else error.strerror or str(error)
        raise HarvestError(
            f"cannot write to {folder} ({why}); give a folder that can be written to (--work)", param="work"
        ) from error


def _put(path: Path, write: Callable[[_Hashed], object]) -> Stamp:
    aside = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        with aside.open("wb") as file:
            hashed = _Hashed(file)
            write(hashed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)  # on a full disk half a file is in the way of whoever frees some space
        raise
    _sync_folder(path.parent)
    return hashed.stamp


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power cut; where folders cannot be opened (Windows), the system sees to it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
