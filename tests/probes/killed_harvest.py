"""Run by test_harvest_kills.py in a process of its own: fork a harvest, SIGKILL it at a random moment, look, repeat.

Of every three kills one is drawn to fall into a write, at a random byte: where files are written in microseconds, a
random moment seldom does. Forking keeps an attempt at milliseconds where a new interpreter would take seconds to
import torch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from probes.harvest import storage
from probes.harvest.activations import Reading, harvest
from probes.texts.corpus import Corpus, Row
from steering.tiny import tiny_model

torch.set_num_threads(1)
READING = Reading(layers=(0, 1, 2, 3), poolings=("last", "mean", "all"), tokens_per_text=4)
SHARDS = 30
LETTERS = "abcdefghij "
SHARD_WRITES = 7
"""Calls that write one shard: header and data of three arrays, and the seal."""


def corpus(count: int, *, seed: int) -> Corpus:
    """Texts of 1 to 80 letters."""
    drawn = random.Random(seed)
    texts = ("".join(drawn.choices(LETTERS, k=drawn.randint(1, 80))) for _ in range(count))
    return Corpus("letters", tuple(Row(number, text, number % 2) for number, text in enumerate(texts, start=1)))


def fork(folder: Path, texts: Corpus, *, tear: tuple[int, float] | None = None) -> int:
    """A child that harvests and exits with 0; with `tear`, see `tear_write`."""
    child = os.fork()
    if child == 0:
        if tear:
            tear_write(*tear)
        harvest(LM, texts, folder, READING, batch_tokens=300, shard_rows=8)
        os._exit(0)
    return child


def tear_write(number: int, share: float) -> None:
    """SIGKILL this process in its write `number` from here, when `share` of the bytes are in the file."""
    write, calls = storage._Hashed.write, [0]

    def torn(self: storage._Hashed, data: bytes) -> int:
        calls[0] += 1
        if calls[0] < number:
            return write(self, data)
        self._file.write(data[: int(len(data) * share)])
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a process outlived its SIGKILL")

    storage._Hashed.write = torn  # type: ignore[method-assign]


def sealed(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of a finished shard."""
    seals = [path.stem for path in folder.glob("shard-*.json")]
    files = (path for seal in seals for path in folder.glob(f"{seal}.*"))
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def finished(folder: Path) -> int:
    """How many shards have their seal."""
    return len(list(folder.glob("shard-*.json")))


def wait(seconds: float, *, until: Callable[[], bool]) -> None:
    """Until a condition holds, but no longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        time.sleep(0.0005)


def kill_somewhere(child: int, folder: Path, *, than: int, seconds: float, begun: bool) -> None:
    """SIGKILL at the end of `seconds`, or when four shards more than `than` are finished: the pace may have changed.

    `begun`: the seconds begin when a shard more is finished, or all are, since a child spends most of a short life on
    its first batch.
    """
    if begun and than < SHARDS:
        wait(60, until=lambda: finished(folder) > than)
    wait(seconds, until=lambda: finished(folder) >= min(than + 4, SHARDS))
    os.kill(child, signal.SIGKILL)


def main(folder: Path, seed: int, kills: int) -> None:
    """Print what happened as JSON."""
    texts, drawn = corpus(8 * SHARDS, seed=seed), random.Random(seed)
    began = time.monotonic()
    os.waitpid(fork(folder / "whole", texts), 0)
    whole = time.monotonic() - began
    into_a_write = {first + drawn.randrange(3) for first in range(0, kills - 2, 3)}
    torn, report = folder / "torn", {"killed": 0, "torn": 0, "partial": 0, "rewritten": [], "finished": [0]}
    while True:
        before = sealed(torn)
        turn = report["killed"]
        tears = turn in into_a_write
        tear = (drawn.randint(1, 2 * SHARD_WRITES), drawn.random()) if tears else None
        child = fork(torn, texts, tear=tear)
        if turn < kills and not tears:
            seconds = drawn.uniform(0, whole / 10)  # about three shards
            kill_somewhere(child, torn, than=report["finished"][-1], seconds=seconds, begun=turn % 4 > 0)
        _, status = os.waitpid(child, 0)
        after = sealed(torn)
        report["rewritten"] += [name for name in before if after.get(name) != before[name]]
        report["finished"].append(finished(torn))
        if os.WIFEXITED(status):
            report["status"] = os.WEXITSTATUS(status)
            break
        report["killed"] += 1
        report["torn"] += tears
        report["partial"] += bool(list(torn.glob(f"{storage.PARTIAL}*")))
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    LM = tiny_model()
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
