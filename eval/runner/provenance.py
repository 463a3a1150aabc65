"""Where a run's figures come from: the command, the spec as run, versions, hashes, and the class of the hardware.

One entry per session, since a run may take several; no name of a machine or a user.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from eval.runner.folder import RunFolder
from steering.version import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "alt-profanity-check",
    "vaderSentiment",
    "detoxify",
)


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def file_hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """Name in the spec -> SHA-256 of the file."""
    return {name: file_sha256(path) for name, path in files.items()}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def session(arguments: Sequence[str], *, dtype: str, device: str) -> dict[str, Any]:
    """This process: what was typed, what it runs on, when it began."""
    return {
        "command": shlex.join(["tiller", "eval", *arguments]),
        "started": now(),
        "ended": None,
        "hardware": {
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "machine": platform.machine(),
            "device": device,
            "torch_threads": torch.get_num_threads(),
            "dtype": dtype,
        },
        "versions": versions(),
    }


def note_rescoring(folder: RunFolder, arguments: Sequence[str], cards: Mapping[str, Any]) -> None:
    """Add to a run's provenance that its samples were judged anew, by what and when."""
    path = folder.path / "provenance.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    entry = {
        "command": shlex.join(["tiller", "eval", *arguments]),
        "at": now(),
        "scorers": cards,
        "versions": versions(),
    }
    folder.write("provenance.json", record | {"rescored": [*record.get("rescored", []), entry]})


def versions() -> dict[str, str]:
    """Of Tiller, Python and the libraries the figures depend on."""
    found = {"tiller-lm": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
