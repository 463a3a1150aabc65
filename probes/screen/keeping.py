"""The figures of finished arms on disk, JSON lines without any text, so that a killed screen goes on where it was.

One line is written per arm and synced; a line torn by a kill is dropped. A folder whose marker describes another
question is refused: its figures must not be mixed with these.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import ScreenError
from probes.screen.question import Arm, Question

MARKER = "question.json"
ARMS = "arms.jsonl"


@dataclass(frozen=True)
class Measured:
    """What one arm gave."""

    scores: list[float]
    """Of the continuation of each prompt; NaN where it has no word to score"""
    kl: list[float]
    """Of each neutral text; zeros for the unsteered arm"""


class Kept:
    """The arms measured so far, in memory and in `folder`."""

    def __init__(self, folder: Path, question: Question) -> None:
        described = json.loads(json.dumps(question.describe()))
        marker = folder / MARKER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not marker.is_file() and (folder / ARMS).exists():
                raise ScreenError(
                    f"{folder} holds {ARMS} but no {MARKER}, so it is not known what was measured there; give another "
                    "--out, or delete that folder",
                    param="out",
                )
            if marker.is_file() and _read(marker) != described:
                raise ScreenError(
                    f"{folder} holds another screen (other model, probe, prompts, neutral text, scorer or settings); "
                    "give another --out, or delete that folder to start anew",
                    param="out",
                )
            if not marker.is_file():
                write_whole(marker, json.dumps(described, indent=2) + "\n")
            self._path = folder / ARMS
            lines = self._path.read_bytes().splitlines(keepends=True) if self._path.is_file() else []
            whole = [line for line in lines if line.endswith(b"\n")]
            if whole != lines:
                os.truncate(self._path, sum(map(len, whole)))
        except OSError as error:
            raise _unwritable(folder, error) from error
        self._found = dict(map(_parse, whole))

    def __contains__(self, arm: Arm) -> bool:
        return arm in self._found

    def __getitem__(self, arm: Arm) -> Measured:
        return self._found[arm]

    def add(self, arm: Arm, measured: Measured) -> None:
        """Keep an arm; it is on disk when this returns. Raises ScreenError when there is no room."""
        scores = [None if math.isnan(score) else score for score in measured.scores]
        line = {"arm": arm.kind, "layers": arm.layers, "scores": scores, "kl": measured.kl}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self._path.parent, error) from error
        self._found[arm] = measured


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all. Raises ScreenError when there is no room or right."""
    aside = path.with_name(f".partial-{path.name}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _unwritable(folder: Path, error: OSError) -> ScreenError:
    return ScreenError(
        f"{folder} cannot be written ({error.strerror or error}); free some space or give another --out, finished arms "
        "are kept",
        param="out",
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None  # damaged: the description of no screen


def _parse(line: bytes) -> tuple[Arm, Measured]:
    row = json.loads(line)
    scores = [math.nan if score is None else float(score) for score in row["scores"]]
    return Arm(row["arm"], tuple(row["layers"])), Measured(scores, row["kl"])
