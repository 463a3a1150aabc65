"""Run by test_resume.py in a process of its own: fork a run, SIGKILL it at a random moment, look, repeat.

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

from eval.runner.folder import RunFolder
from eval.runner.listener import Silent
from eval.runner.prepare import prepare
from eval.runner.reading import read_spec
from eval.runner.run import run
from steering.tiny import tiny_model

torch.set_num_threads(1)


def fork(spec: str, out: Path) -> int:
    """A child that runs the spec and exits with 0."""
    child = os.fork()
    if child == 0:
        run(prepare(read_spec(spec), load=lambda name: LM), RunFolder(out), listener=Silent())
        os._exit(0)
    return child


def kept(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished part."""
    parts = out.rglob("part-*.parquet")
    return {str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts}


def wait_for(out: Path, *, parts: int) -> None:
    """Until so many parts are finished: fast machines and slow ones then differ in seconds, not in where kills fall."""
    deadline = time.monotonic() + 60
    while len(kept(out)) < parts and not (out / "report.json").exists() and time.monotonic() < deadline:
        time.sleep(0.001)


def main(spec: str, out: Path, seed: int, kills: int) -> None:
    """Print what happened as JSON."""
    drawn = random.Random(seed)
    began = time.monotonic()
    os.waitpid(fork(spec, out / "whole"), 0)
    whole = time.monotonic() - began
    torn = out / "torn"
    report: dict[str, list[object]] = {"finished": [], "rewritten": [], "aside": []}
    for number in range(kills):
        before = kept(torn)
        child = fork(spec, torn)
        if number % 4:  # every fourth at any moment, the start included
            wait_for(torn, parts=len(before) + drawn.randint(1, 6))
            time.sleep(drawn.uniform(0, whole / 50))  # about a part
        else:
            time.sleep(drawn.uniform(0, whole / 3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        after = kept(torn)
        report["rewritten"] += [name for name in before if after.get(name) != before[name]]
        report["aside"] += [path.name for path in torn.rglob("*.tmp")]
        report["finished"].append(len(after))
    _, status = os.waitpid(fork(spec, torn), 0)
    print(json.dumps(report | {"status": os.waitstatus_to_exitcode(status)}))  # noqa: T201


if __name__ == "__main__":
    LM = tiny_model()
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
