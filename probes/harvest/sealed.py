"""Numbered shards of arrays, each under a seal: a small JSON, written last, with the hash of every array.

    shard-00000.last.npy      an array, by name
    shard-00000.json          {counts, "order", "files": {name: {"bytes", "sha256"}}, "check": hash of the rest}

Without its seal a shard is not there. With it, every array is hashed once by this object before its numbers are used,
and again when the file has changed since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import HarvestError
from probes.harvest.storage import Stamp, hash_of, read_json, stamp_of, write_array, write_json

ROWS_FIRST, LAYERS_FIRST = "rows, layers, hidden_size", "layers, rows, hidden_size"
"""How the axes of an array stand; the second lets one layer be read without touching the others."""


class Sealed:
    """The shards in `folder`. `damage` says what is wrong with one; `entry` and `load` raise HarvestError for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: dict[str, tuple[int, int, int]] = {}

    def finished(self, shard: int) -> bool:
        """Whether a shard has its seal."""
        return self.seal_path(shard).exists()

    def write(self, shard: int, arrays: Mapping[str, NDArray[Any]], counts: Mapping[str, int]) -> None:
        """Write the arrays of one shard, then its seal. Raises OSError."""
        stamps = {name: write_array(self.array_path(shard, name), array) for name, array in arrays.items()}
        self._seal(shard, counts, LAYERS_FIRST, stamps)

    def adopt(self, shard: int, names: tuple[str, ...], counts: Mapping[str, int]) -> None:
        """Seal arrays that stand there with their rows first. Raises OSError."""
        stamps = {name: stamp_of(self.array_path(shard, name)) for name in names}
        self._seal(shard, counts, ROWS_FIRST, stamps)

    def discard(self, shard: int) -> None:
        """Break the seal: the shard has to be made again."""
        self.seal_path(shard).unlink()

    def entry(self, shard: int) -> dict[str, Any]:
        """What the seal of a shard says."""
        entry = self._read(shard)
        if entry is None:
            raise HarvestError(self._message(shard, self._broken(shard)), param="work")
        return entry

    def load(self, shard: int, name: str) -> NDArray[Any]:
        """One array, memory-mapped."""
        path = self.array_path(shard, name)
        why = self._changed(path, self.entry(shard)["files"])
        if why:
            raise HarvestError(self._message(shard, why), param="work")
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return loaded

    def damage(self, shard: int) -> str | None:
        """What is wrong with a finished shard, in words; None: every byte is as it was written."""
        entry = self._read(shard)
        if entry is None:
            return self._broken(shard)
        files = entry["files"]
        return next((why for name in files if (why := self._changed(self.folder / name, files))), None)

    def array_path(self, shard: int, name: str) -> Path:
        """Where an array of a shard is."""
        return self.folder / f"shard-{shard:05d}.{name}.npy"

    def seal_path(self, shard: int) -> Path:
        """Where the seal of a shard is."""
        return self.folder / f"shard-{shard:05d}.json"

    def _seal(self, shard: int, counts: Mapping[str, int], order: str, stamps: Mapping[str, Stamp]) -> None:
        files = {self.array_path(shard, name).name: asdict(stamp) for name, stamp in stamps.items()}
        entry = {**counts, "order": order, "files": files}
        write_json(self.seal_path(shard), {**entry, "check": hash_of(entry)})

    def _read(self, shard: int) -> dict[str, Any] | None:
        entry = read_json(self.seal_path(shard)) or {}
        check = entry.pop("check", None)
        return entry if check == hash_of(entry) else None

    def _changed(self, path: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
        try:
            status = path.stat()
            seen = (status.st_size, status.st_mtime_ns, status.st_ino)
            if self._sound.get(path.name) == seen:
                return None
            recorded, found = Stamp(**files[path.name]), stamp_of(path)
        except OSError as error:
            return f"{path.name}: {error.strerror}"
        if found.bytes != recorded.bytes:
            return f"{path.name} has {found.bytes} bytes, expected {recorded.bytes}"
        if found != recorded:
            return f"the SHA-256 of {path.name} is not the recorded one"
        self._sound[path.name] = seen
        return None

    def _broken(self, shard: int) -> str:
        return f"{self.seal_path(shard).name} is not what was written"

    def _message(self, shard: int, why: str) -> str:
        return (
            f"shard {shard} of {self.folder} is damaged: {why}; run the same command again: it reads the texts of this "
            "shard once more and keeps the others"
        )
