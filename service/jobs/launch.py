"""The command of a job, and what its process is given: a folder, this server's address, a key, low priority.

It is started in the job's folder and told of it as `.`, so that its report names no path of this machine. It ends when
its standard input does: a server that is killed leaves no run behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.jobs.specs import eval_home
from service.settings import Settings
from steering.embedded import EMBEDDED

PROGRESS = "progress.jsonl"
SPEC = "spec.json"
KEY = "TILLER_API_KEY"
MOST_ROWS = 100_000
"""Continuations one job may write."""

_NEEDED = ("eval", "matplotlib", "pyarrow", "sklearn", "yaml")
"""What `tiller eval run` cannot begin without; located, never imported here."""
_PATIENCE = 24 * 3600.0
"""Seconds a job asks a full server again. It ends with the server, so there is no hurry."""
_CHECK_PATIENCE = 5.0


@dataclass(frozen=True)
class Launch:
    """How jobs of one server are started."""

    settings: Settings
    url: str | None
    """Of this server, from this machine; None: nobody said, and no job can run"""
    command: Sequence[str] = (sys.executable, "-P", "-m", "eval")
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """Lets the jobs of this process in where the server has keys; made anew at every start, and kept nowhere"""

    @property
    def missing(self) -> str | None:
        """The first module that is not installed, of those an evaluation needs."""
        return next((name for name in _NEEDED if importlib.util.find_spec(name) is None), None)

    @property
    def home(self) -> Path:
        """The folder of all jobs."""
        return self.settings.state_folder().absolute() / "jobs"

    def folder(self, job_id: str) -> Path:
        """The folder of one job."""
        return self.home / job_id

    def lay_out(self, job_id: str, spec: str | Mapping[str, Any]) -> Path:
        """Make a job's folder, with its spec where that is an object, and return it."""
        folder = self.folder(job_id)
        folder.mkdir(parents=True, mode=0o700)
        if not isinstance(spec, str):
            (folder / SPEC).write_text(json.dumps(spec), encoding="utf-8")
        return folder

    def clear(self, job_id: str) -> None:
        """Remove a job's folder and all that was written there."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def sweep(self, known: Collection[str]) -> None:
        """Remove what a check left that was killed: folders of no job, untouched for an hour."""
        for folder in self.home.glob("eval-*"):
            if folder.name not in known and time.time() - folder.stat().st_mtime > 3600:
                self.clear(folder.name)

    def arguments(self, asked: Mapping[str, Any], *, check: bool) -> list[str]:
        """The command line of a job."""
        spec, n = asked["spec"], asked["n"]
        assert self.url is not None, "asked for only where there is one"
        found = [*self.command, "run", *([spec] if isinstance(spec, str) else [SPEC, "--confined"])]
        found += ["--server", self.url, "--out", ".", "--progress", PROGRESS, "--lifeline", "--threads", "1"]
        found += ["--max-rows", str(MOST_ROWS), "--concurrency", str(min(8, self.settings.slots))]
        found += ["--patience", str(_CHECK_PATIENCE if check else _PATIENCE)]
        found += ["--check"] if check else []
        found += [] if n is None else ["--n", str(n)]
        return [*found, *self._model()]

    def environment(self) -> dict[str, str]:
        """This process's own, with the key, the data folder, and nothing of the accelerators."""
        found = os.environ | {
            KEY: self.key,
            "CUDA_VISIBLE_DEVICES": "",  # the server's memory there is the server's
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        home = eval_home()
        if home is not None:
            found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home.parent), found.get("PYTHONPATH")]))
        if self.settings.data is not None:
            found["TILLER_DATA"] = str(self.settings.data.absolute())
        return found

    def without_paths(self, text: str) -> str:
        """`text` as anybody may read it: folders of this machine by what they are."""
        settings, model = self.settings, Path(self.settings.model)
        known = {self.home: "jobs", settings.state_folder().absolute(): "state", Path.home(): "~", eval_home(): "eval"}
        if settings.data is not None:
            known[settings.data.absolute()] = "data"
        if model.is_dir():
            known[model.absolute()] = model.name
        for path, word in sorted(known.items(), key=lambda entry: -len(str(entry[0]))):
            if path is not None and path.parent != path:
                text = re.sub(rf"{re.escape(str(path))}(?![\w.-])", re.escape(word), text)
        return text

    def _model(self) -> list[str]:
        name, chosen = self.settings.model, self.settings.jobs_load_model
        if chosen or (chosen is None and name in EMBEDDED):
            return ["--model", str(Path(name).absolute()) if Path(name).is_dir() else name]
        return ["--no-model"]
