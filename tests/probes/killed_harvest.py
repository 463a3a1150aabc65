"""Run by test_harvest_kills.py in a process of its own: fork a harvest, SIGKILL it at a random moment, look, repeat.

Forking keeps an attempt at milliseconds where a new interpreter would take seconds to import torch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from probes.harvest.activations import Reading, harvest
from probes.harvest.storage import PARTIAL
from probes.texts.corpus import Corpus, Row
from steering.tiny import tiny_model

torch.set_num_threads(1)
READING = Reading(layers=(0, 1, 2, 3), poolings=("last", "mean", "all"), tokens_per_text=4)
LETTERS = "abcdefghij "


def corpus(count: int, *, seed: int) -> Corpus:
    """Texts of 1 to 80 letters."""
    drawn = random.Random(seed)
    texts = ("".join(drawn.choices(LETTERS, k=drawn.randint(1, 80))) for _ in range(count))
    return Corpus("letters", tuple(Row(number, text, number % 2) for number, text in enumerate(texts, start=1)))


def fork(folder: Path, texts: Corpus) -> int:
    """A child that harvests and exits with 0."""
    child = os.fork()
    if child == 0:
        harvest(LM, texts, folder, READING, batch_tokens=300, shard_rows=8)
        os._exit(0)
    return child


def sealed(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of a finished shard."""
    seals = [path.stem for path in folder.glob("shard-*.json")]
    files = (path for seal in seals for path in folder.glob(f"{seal}.*"))
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def wait_for_more(folder: Path, *, than: int) -> None:
    """Until a shard more is finished, or all are: a child spends most of a short life on its first batch."""
    deadline = time.monotonic() + 60
    while than < 30 and len(list(folder.glob("shard-*.json"))) <= than and time.monotonic() < deadline:
        time.sleep(0.001)


def main(folder: Path, seed: int, kills: int) -> None:
    """Print what happened as JSON."""
    texts, drawn = corpus(240, seed=seed), random.Random(seed)
    began = time.monotonic()
    os.waitpid(fork(folder / "whole", texts), 0)
    whole = time.monotonic() - began
    torn, report = folder / "torn", {"killed": 0, "partial": 0, "rewritten": [], "finished": [0]}
    while True:
        before = sealed(torn)
        child = fork(torn, texts)
        if report["killed"] < kills:
            if report["killed"] % 4:
                wait_for_more(torn, than=report["finished"][-1])
            time.sleep(drawn.uniform(0, whole / 10))  # about three shards
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        after = sealed(torn)
        report["rewritten"] += [name for name in before if after.get(name) != before[name]]
        report["finished"].append(len(list(torn.glob("shard-*.json"))))
        if os.WIFEXITED(status):
            report["status"] = os.WEXITSTATUS(status)
            break
        report["killed"] += 1
        report["partial"] += bool(list(torn.glob(f"{PARTIAL}*")))
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    LM = tiny_model()
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
