"""Run by test_harvest_processes.py, once per process of a team: harvest two corpora, as a training run does.

`die` names a rank and a corpus: that process kills itself before its first batch of that corpus. The others of the team
read none of that corpus until then, or a quick one could leave it nothing to read.
"""

from __future__ import annotations

import os
import signal
import sys
import time
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
    lm, read, fallen = tiny_model(), filling.read_batch, folder / "fallen"

    def deadly(*arguments):  # type: ignore[no-untyped-def]
        if die == f"{team().rank}:{part}":
            fallen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while die.endswith(f":{part}") and not fallen.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
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
