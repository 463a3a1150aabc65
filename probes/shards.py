"""Activations on disk, shard by shard: memory-mapped float32 arrays that survive any interruption.

    folder/index.json                what is being harvested: corpus, model, tokenizer, layers, poolings, max_tokens
    folder/shard-00000.last.npy      (rows of the shard, layers, hidden_size) float32, one file per pooling
    folder/shard-00000.json          {"rows", "tokens", "truncated"}: written last; a shard without it is not finished

Every file is written aside and renamed, so a shard is whole or absent. A second harvest of the same inputs skips what
is finished; one of other inputs is refused, because its shards would mix two different things.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from probes.errors import HarvestError

Pooling = Literal["last", "mean"]
Floats = NDArray[np.float32]

SHARD_ROWS = 512
_FULL = {errno.ENOSPC, errno.EDQUOT, None}  # numpy reports a short write as an OSError without a number


@dataclass(frozen=True)
class Inputs:
    """Everything the numbers in a folder depend on; compared field by field on resuming."""

    corpus: str
    """SHA-256 of the texts and labels in order."""
    rows: int
    model: str
    """Id, revision, config hash and dtype."""
    tokenizer: str
    layers: tuple[int, ...]
    poolings: tuple[Pooling, ...]
    max_tokens: int
    hidden_size: int
    shard_rows: int = SHARD_ROWS
    format: int = 1
    """Raised when the meaning of the stored numbers changes."""

    @property
    def shards(self) -> int:
        """How many shards the rows make."""
        return -(-self.rows // self.shard_rows)

    def span(self, shard: int) -> range:
        """The rows of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def nbytes(self, shard: int) -> int:
        """Bytes one shard takes on disk, all poolings together."""
        return len(self.span(shard)) * len(self.layers) * self.hidden_size * 4 * len(self.poolings)


@dataclass(frozen=True)
class Tally:
    """What was counted while a shard was made."""

    rows: int
    tokens: int
    truncated: int


class ShardFolder:
    """The shards of one harvest. Raises HarvestError when the folder already holds a harvest of other inputs."""

    def __init__(self, folder: Path, inputs: Inputs) -> None:
        self.folder = folder
        self.inputs = inputs
        with self._disk_errors(needed=0):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".partial-*"):
                leftover.unlink()
            if (folder / "index.json").exists():
                self._compare(_read_json(folder / "index.json"))
            else:
                self._write_json("index.json", asdict(inputs))

    def pending(self) -> list[int]:
        """Shards not finished yet, in order."""
        return [shard for shard in range(self.inputs.shards) if not self._tally(shard).exists()]

    def write(self, shard: int, arrays: Mapping[Pooling, Floats], tally: Tally) -> None:
        """Put one finished shard in place. Raises HarvestError when the disk is full; earlier shards stay."""
        with self._disk_errors(needed=sum(map(self.inputs.nbytes, self.pending()))):
            for pooling, array in arrays.items():
                target = self._array(shard, pooling)
                aside = self.folder / f".partial-{target.name}"
                with aside.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
                os.replace(aside, target)
            self._write_json(self._tally(shard).name, asdict(tally))

    def layer(self, layer: int, pooling: Pooling) -> Floats:
        """(rows, hidden_size) float32 of one layer, rows in the corpus's order. All shards must be finished."""
        position = self.inputs.layers.index(layer)
        parts = [
            np.load(self._array(shard, pooling), mmap_mode="r", allow_pickle=False)[:, position]
            for shard in range(self.inputs.shards)
        ]
        return np.concatenate(parts)

    def tally(self) -> Tally:
        """Counts over all finished shards."""
        read = [_read_json(self._tally(shard)) for shard in range(self.inputs.shards) if self._tally(shard).exists()]
        return Tally(*(sum(int(str(entry[name])) for entry in read) for name in ("rows", "tokens", "truncated")))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one writer. Raises HarvestError when another process has it."""
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                yield
        except Timeout:
            raise HarvestError(
                f"another process is harvesting into {self.folder}; wait for it, or give a folder of your own (--work)",
                param="work",
            ) from None

    def require_space(self) -> None:
        """Raise HarvestError when the pending shards cannot fit on the disk as it is now."""
        needed = sum(map(self.inputs.nbytes, self.pending()))
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise HarvestError(self._no_space(needed, f", of which {_size(free)} are free"), param="work")

    def _array(self, shard: int, pooling: Pooling) -> Path:
        return self.folder / f"shard-{shard:05d}.{pooling}.npy"

    def _tally(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.json"

    def _write_json(self, name: str, value: Mapping[str, object]) -> None:
        aside = self.folder / f".partial-{name}"
        aside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, self.folder / name)

    def _compare(self, stored: Mapping[str, object]) -> None:
        wanted = json.loads(json.dumps(asdict(self.inputs)))
        different = [name for name in wanted if stored.get(name) != wanted[name]]
        if different:
            raise HarvestError(
                f"{self.folder} holds a harvest of other inputs (different: {', '.join(different)}), so its shards "
                "cannot be continued; restore those inputs to resume, delete the folder to start again, or give "
                "another one (--work)",
                param="work",
            )

    @contextmanager
    def _disk_errors(self, *, needed: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise HarvestError(self._no_space(needed, ""), param="work") from error
            raise HarvestError(
                f"cannot write to {self.folder} ({error.strerror}); give a folder that can be written to (--work)",
                param="work",
            ) from error

    def _no_space(self, needed: int, rest: str) -> str:
        return (
            f"no space left for activations in {self.folder}: {_size(needed)} more are needed{rest}. Finished shards "
            "are kept: free some space and run the same command again to resume, name a larger disk with --work, or "
            "take fewer layers (--layers)"
        )


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        value = None
    if not isinstance(value, dict):
        raise HarvestError(f"{path} is damaged; delete the folder {path.parent} and harvest again", param="work")
    return value


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
