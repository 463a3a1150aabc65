"""The activations of one harvest on disk, shard by shard: they survive any interruption and are known by their hash.

    folder/index.json                what is being harvested: `Inputs`
    folder/shard-00000.last.npy      (layers, rows, hidden_size) float32 or float16, one file per pooling
    folder/shard-00000.tokens.npy    with pooling "all": (rows, 2) int32, place of the text and of the token in it
    folder/shard-00000.json          counts and hashes, written last (`probes/harvest/sealed.py`)

A second harvest of the same inputs skips what is finished and makes again what no longer has its hash; one of other
inputs is refused, because its shards would mix two different things. One run at a time: a single process, or several
that were started together and claim shard by shard (`probes/harvest/processes.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from probes.errors import HarvestError
from probes.harvest.sealed import LAYERS_FIRST, Sealed
from probes.harvest.storage import PARTIAL, disk_errors, read_json, write_json
from probes.harvest.upgrade import adopt_all, modernised

Pooling = Literal["last", "mean", "all"]
ShardDType = Literal["float32", "float16"]
Floats = NDArray[np.float32]

SHARD_ROWS = 512
TOKENS = "tokens"
"""The array of a shard that says whose rows those of pooling "all" are."""
_CLAIM = ".claim-"
_MEANING = {
    "corpus": " (the texts or their order have changed)",
    "template": " (the chat template, or what it renders: some write the date)",
}


@dataclass(frozen=True)
class Inputs:
    """What the numbers in a folder depend on beyond rounding; compared field by field on resuming.

    Device, torch threads and `batch_tokens` are not among them: they may change on resuming, and move last digits.
    """

    corpus: str
    """SHA-256 of the texts in order; labels may differ."""
    rows: int
    model: str
    """Id, revision, config hash and dtype."""
    tokenizer: str
    template: str
    """`raw`, or `chat:` and the hash of what the tokenizer's template makes of a fixed text."""
    layers: tuple[int, ...]
    poolings: tuple[Pooling, ...]
    tokens_per_text: int | None
    """The cap of pooling "all"; None without it."""
    max_tokens: int
    hidden_size: int
    shard_dtype: ShardDType = "float32"
    shard_rows: int = SHARD_ROWS
    format: int = 2
    """Raised when the meaning of the stored numbers changes."""

    @property
    def shards(self) -> int:
        """How many shards the rows make."""
        return -(-self.rows // self.shard_rows)

    def span(self, shard: int) -> range:
        """The rows of one shard."""
        return range(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def nbytes(self, shard: int) -> int:
        """Bytes one shard takes on disk at least, all poolings together; "all" is counted with one token per text."""
        width = np.dtype(self.shard_dtype).itemsize
        return len(self.span(shard)) * len(self.layers) * self.hidden_size * width * len(self.poolings)

    def changes(self, stored: Mapping[str, object]) -> list[str]:
        """What is different from the stored inputs of an earlier harvest, in words."""
        wanted = json.loads(json.dumps(asdict(self)))
        return [
            f"{name}: {_short(stored.get(name))} then, {_short(wanted[name])} now" + _MEANING.get(name, "")
            for name in wanted
            if stored.get(name) != wanted[name]
        ]


@dataclass(frozen=True)
class Tally:
    """What was counted while shards were made."""

    rows: int
    tokens: int
    truncated: int
    kept: int = 0
    """Rows of pooling "all"."""


class ShardFolder:
    """The shards of one harvest. Nothing on disk is touched before `locked` and `prepare`."""

    def __init__(self, folder: Path, inputs: Inputs, *, labelled: str) -> None:
        """`labelled` is the hash of texts and labels, by which format 1 knew the corpus."""
        self.folder = folder
        self.inputs = inputs
        self._labelled = labelled
        self._sealed = Sealed(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, made if need be, for one run. Raises HarvestError when another run has it."""
        lock = FileLock(self.folder / ".lock")
        with self._disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise HarvestError(
                    f"another process is harvesting into {self.folder}; wait for it, or give a folder of your own "
                    "(--work)",
                    param="work",
                ) from None
        try:
            yield
        finally:
            lock.release()

    def prepare(self) -> list[str]:
        """Under the lock: compare the inputs, clear what a kill left, find damage, and ask for the space needed.

        Returns a line for every damaged shard; such shards are pending again. Raises HarvestError when the folder
        holds a harvest of other inputs, or the disk cannot hold what is pending.
        """
        with self._disk_errors():
            for leftover in (*self.folder.glob(f"{PARTIAL}*"), *self.folder.glob(f"{_CLAIM}*")):
                leftover.unlink()
            self._compare()
            finished = [shard for shard in range(self.inputs.shards) if self.finished(shard)]
            damaged = {shard: why for shard in finished if (why := self._sealed.damage(shard))}
            for shard in damaged:
                self._sealed.discard(shard)
        self._require_space()
        return [f"{self.folder}: shard {shard} is damaged ({why}); made again" for shard, why in damaged.items()]

    def pending(self) -> list[int]:
        """Shards not finished yet, in order."""
        return [shard for shard in range(self.inputs.shards) if not self.finished(shard)]

    def finished(self, shard: int) -> bool:
        """Whether a shard is complete on disk."""
        return self._sealed.finished(shard)

    @contextmanager
    def claimed(self, shard: int) -> Iterator[bool]:
        """Whether it falls to this process to make `shard`, of several that share the folder.

        A claim is a file lock: when a process dies the system gives its claim back, and another process takes it.
        """
        lock = FileLock(self.folder / f"{_CLAIM}{shard:05d}")
        with self._disk_errors():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                mine = False
            else:
                mine = not self.finished(shard)
        try:
            yield mine
        finally:
            lock.release()

    def write(self, shard: int, arrays: Mapping[str, NDArray[Any]], tally: Tally) -> None:
        """Put one finished shard in place: an array per pooling, and `TOKENS` where "all" is one of them.

        Raises HarvestError when the disk is full; earlier shards stay.
        """
        with self._disk_errors():
            self._sealed.write(shard, arrays, asdict(tally))

    def layer(self, layer: int, pooling: Pooling) -> Floats:
        """(rows, hidden_size) float32 of one layer in the corpus's order, in memory; all shards must be finished.

        Raises HarvestError for a shard that is not what was written.
        """
        position = self.inputs.layers.index(layer)
        entries = [self._sealed.entry(shard) for shard in range(self.inputs.shards)]
        counts = [int(entry["kept" if pooling == "all" else "rows"]) for entry in entries]
        taken = np.empty((sum(counts), self.inputs.hidden_size), dtype=np.float32)
        end = 0
        for shard, (entry, count) in enumerate(zip(entries, counts, strict=True)):
            array = self._sealed.load(shard, pooling)
            taken[end : end + count] = array[position] if entry["order"] == LAYERS_FIRST else array[:, position]
            end += count
        return taken

    def token_index(self) -> NDArray[np.int64]:
        """(rows of pooling "all", 2): the text's place in the corpus, the token's place in the text."""
        parts = [self._sealed.load(shard, TOKENS) for shard in range(self.inputs.shards)]
        return np.concatenate(parts).astype(np.int64)

    def tally(self) -> Tally:
        """Counts over all finished shards."""
        read = [self._sealed.entry(shard) for shard in range(self.inputs.shards) if self.finished(shard)]
        return Tally(*(sum(int(entry[name]) for entry in read) for name in ("rows", "tokens", "truncated", "kept")))

    def clear_claims(self) -> None:
        """Remove what claims leave behind, once all shards are finished."""
        for claim in self.folder.glob(f"{_CLAIM}*"):
            claim.unlink(missing_ok=True)

    def _compare(self) -> None:
        index = self.folder / "index.json"
        if not index.exists():
            if any(self.folder.glob("shard-*.json")):
                raise HarvestError(
                    f"{self.folder} holds shards without {index.name}, so it is not known of what; delete the folder "
                    "and harvest again, or give another one (--work)",
                    param="work",
                )
            write_json(index, asdict(self.inputs))
            return
        stored = read_json(index)
        if stored is None:
            raise HarvestError(f"{index} is damaged; delete the folder {self.folder} and harvest again", param="work")
        old = stored.get("format") == 1
        changes = self.inputs.changes(modernised(stored, self._labelled, self.inputs.corpus) if old else stored)
        if changes:
            raise HarvestError(
                f"{self.folder} holds a harvest of other inputs (different: {'; '.join(changes)}), so its shards "
                "cannot be continued; restore those inputs to resume, delete the folder to start again, or give "
                "another one (--work)",
                param="work",
            )
        if old:
            spans = map(self.inputs.span, range(self.inputs.shards))
            shapes = [(len(span), len(self.inputs.layers), self.inputs.hidden_size) for span in spans]
            adopt_all(self._sealed, self.inputs.poolings, shapes)
            write_json(index, asdict(self.inputs))

    def _require_space(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if self._needed() > free:
            raise HarvestError(self._no_space(f", of which {_size(free)} are free"), param="work")

    def _needed(self) -> int:
        return sum(map(self.inputs.nbytes, self.pending()))

    def _disk_errors(self) -> Any:
        return disk_errors(self.folder, no_space=self._no_space)

    def _no_space(self, rest: str = "") -> str:
        least = "at least " if "all" in self.inputs.poolings else ""
        return (
            f"no space left for activations in {self.folder}: {least}{_size(self._needed())} more are needed{rest}. "
            "Finished shards are kept: free some space and run the same command again to resume, name a larger disk "
            "with --work, or take fewer layers (--layers) or --shard-dtype float16"
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-16:]}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
