"""The server under load: a process of its own on 127.0.0.1, and what `/proc` says of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
_HOME = {"TILLER_HOME"}
"""The one setting of its surroundings a server under load follows"""
START = 600.0
"""Seconds a start may take: a model may have to be fetched."""


def make_tiny(folder: Path) -> list[str]:
    """Save a random model and two probes of it, and return the flags that serve them."""
    from steering import load_model, save_probe
    from steering.tiny import tiny_model, tiny_probe

    tiny = tiny_model()
    tiny.model.save_pretrained(folder / "tiny")
    tiny.tokenizer.save_pretrained(folder / "tiny")
    lm = load_model(str(folder / "tiny"), device="cpu", threads=1)
    for seed, name in enumerate(("calm", "formal")):
        save_probe(tiny_probe(lm, name=name, seed=seed), folder / "probes")
    return ["--model", str(folder / "tiny"), "--probes", str(folder / "probes")]


@dataclass(frozen=True)
class Sample:
    """The process at one moment."""

    at: float
    rss_mb: float
    threads: int
    files: int


class Server:
    """`tiller serve` with `flags`; started by `with`, and killed at its end if it still runs."""

    def __init__(self, flags: Sequence[str], *, folder: Path, port: int = 0) -> None:
        self._command = [sys.executable, "-P", "-m", "service", "serve", "--port", str(port or free_port())]
        self._command += ["--state", str(folder / "state"), "--log-level", "warning", *flags]
        self.port = int(self._command[self._command.index("--port") + 1])
        self.log = folder / "server.log"

    def __enter__(self) -> Server:
        mine = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
        environment = {
            name: value for name, value in os.environ.items() if name in _HOME or "TILLER" not in name
        } | mine
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        try:
            self._wait()
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        until = time.monotonic() + START
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if self.get("/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text(encoding='utf-8')[-2000:]}")

    def get(self, route: str) -> httpx.Response:
        """One GET over a connection of its own."""
        return httpx.get(f"http://127.0.0.1:{self.port}{route}", timeout=30)

    def sample(self) -> Sample:
        """Memory, threads and open files now."""
        place = Path(f"/proc/{self.process.pid}")
        pages = int((place / "statm").read_text(encoding="ascii").split()[1])
        threads, files = (len(list((place / name).iterdir())) for name in ("task", "fd"))
        return Sample(time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20, threads, files)

    def until_idle(self, *, seconds: float) -> dict[str, Any]:
        """Its `/ready` once no row runs or waits, or after so many seconds all the same."""
        until = time.monotonic() + seconds
        while True:
            ready: dict[str, Any] = self.get("/ready").json()
            if (ready["running"], ready["waiting"]) == (0, 0) or time.monotonic() > until:
                return ready
            time.sleep(0.1)

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def watched(server: Server) -> Iterator[list[Sample]]:
    """A sample every second while the block runs."""
    samples, over = [server.sample()], threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            try:
                samples.append(server.sample())
            except (FileNotFoundError, ProcessLookupError):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def free_port() -> int:
    """A port of this machine nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
