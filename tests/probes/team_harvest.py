"""Run by test_harvest_processes.py, once per process of a team: harvest two corpora, as a training run does.

`die` names a rank and a corpus: that process kills itself when it has read its first batch of that corpus.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from killed_harvest import READING, corpus

from probes.harvest import filling
from probes.harvest.activations import harvest
from probes.harvest.processes import team
from steering.errors import TillerError
from steering.tiny import tiny_model


def main(folder: Path, die: str) -> int:
    """0 when done, 2 with the reason on stderr when refused."""
    torch.set_num_threads(1)
    lm, read = tiny_model(), filling.read_batch

    def deadly(*arguments):  # type: ignore[no-untyped-def]
        if die == f"{team().rank}:{part}":
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*arguments)

    filling.read_batch = deadly
    try:
        for part in ("train", "test"):
            harvest(lm, corpus(120, seed=len(part)), folder / part, READING, batch_tokens=300, shard_rows=8)
    except TillerError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
