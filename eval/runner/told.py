"""How far a run is, for a program: one JSON object per line of a file, the newest last.

    {"stage": "writing", "done": 64, "total": 480, "eta_seconds": 71.3}
    {"error": {"message": "...", "param": "arms", "refused": true}}          the last line of a run that failed

`eta_seconds` is of the stage, from its pace in this process; null until something was done. `refused`: the spec cannot
be run as it stands, and trying again will not help.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.runner.listener import Listener
from eval.runner.parts import kept_whole
from steering.errors import InvalidRequest, TillerError, UnknownProbe


class ProgressFile:
    """A listener that appends to `path`, and hands on to `listener` what it was told."""

    def __init__(self, path: Path, listener: Listener) -> None:
        self._path = path
        self._listener = listener
        self._stage, self._total, self._done, self._first = "", 0, 0, 0
        self._began = 0.0

    def begin(self, stage: str, *, total: int, done: int) -> None:
        """A stage, with what was there before."""
        self._stage, self._total, self._done, self._first = stage, total, done, done
        self._began = time.monotonic()
        self._tell()
        self._listener.begin(stage, total=total, done=done)

    def advance(self, rows: int) -> None:
        """So many more."""
        self._done += rows
        self._tell()
        self._listener.advance(rows)

    def say(self, line: str) -> None:
        """To the other listener alone: sentences are for people."""
        self._listener.say(line)

    def _tell(self) -> None:
        here, seconds = self._done - self._first, time.monotonic() - self._began
        eta = seconds / here * (self._total - self._done) if here else None
        tell(
            self._path,
            {
                "stage": self._stage,
                "done": self._done,
                "total": self._total,
                "eta_seconds": None if eta is None else round(eta, 1),
            },
        )


@contextmanager
def errors_told(path: Path | None) -> Iterator[None]:
    """An error inside the block becomes the last line of `path`, and goes on its way."""
    try:
        yield
    except TillerError as error:
        if path is not None:
            refused = isinstance(error, InvalidRequest | UnknownProbe)
            param = getattr(error, "param", None)
            tell(path, {"error": {"message": str(error), "param": param, "refused": refused}})
        raise


def tell(path: Path, line: dict[str, Any]) -> None:
    """One more line. Raises RunStopped when it cannot be written."""
    with kept_whole(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
