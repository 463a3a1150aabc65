"""One process of a job: started beside the traffic, asked how far it is, ended for certain."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOG = "log"
"""What it says on standard error, in its folder."""

_GRACE = 5.0
"""Seconds between being told to end and being made to."""
_TAIL = 65536
"""Bytes of its progress file that are read; a line is far shorter."""


class Child:
    """A process in a session of its own, in `folder`, its priority lowered by `nice`. Raises OSError."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        progress: str,
        environment: Mapping[str, str],
        nice: int = 10,
    ) -> None:
        self._progress = folder / progress
        self._seen = self._progress.stat().st_size if self._progress.is_file() else 0
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,  # never written to: its end is ours
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        with contextlib.suppress(OSError):  # it has ended already, or this system does not let us
            os.setpriority(os.PRIO_PROCESS, self._process.pid, nice)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def told(self) -> dict[str, Any]:
        """The last whole line this process wrote about its progress; empty when there is none."""
        try:
            with self._progress.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._seen, size - _TAIL))
                lines = file.read().split(b"\n")[:-1]
            found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        except (OSError, ValueError):
            return {}
        return found

    def stop(self) -> None:
        """End it and all it started; it is gone when this returns."""
        for order in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, order)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_GRACE)
        self.close()

    def close(self) -> None:
        """Let go of a process that has ended."""
        assert self._process.stdin is not None, "started with a pipe"
        self._process.stdin.close()


def why_it_ended(code: int, told: Mapping[str, Any]) -> str | None:
    """The reason a process failed, as a sentence; None when it did not."""
    if code == 0:
        return None
    error = told.get("error")
    if isinstance(error, dict):
        return str(error.get("message"))
    if code < 0:
        return f"the process was ended by signal {-code} ({signal.Signals(-code).name}), perhaps for want of memory"
    return f"the process ended with code {code} and gave no reason; the server's log says more"
