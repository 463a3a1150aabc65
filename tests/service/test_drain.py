"""SIGTERM to a busy server: what can finish does, the rest is refused in the one shape, and the process exits 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
START = 180.0
"""Seconds a first start may take: it may fetch the model."""


@pytest.mark.slow
def test_a_drain_that_takes_too_long_ends_in_refusals_and_exit_0(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--drain-seconds", "1", "--threads", "1"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=dict(os.environ)) as server,
    ):
        try:
            url = _wait_for(tmp_path / "log", server)
            body = {"prompt": ["Once upon a time"] * 8, "max_tokens": 1000}
            with ThreadPoolExecutor(3) as callers:
                asked = [callers.submit(httpx.post, f"{url}/generate", json=body, timeout=120) for _ in range(3)]
                time.sleep(1.5)
                server.send_signal(signal.SIGTERM)
                replies = [reply.result() for reply in asked]
            assert server.wait(60) == 0
        finally:
            server.kill()
    for reply in replies:
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "engine_unavailable"
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")


def _wait_for(path: Path, server: subprocess.Popen[bytes]) -> str:
    """The server's address, once it says that it is ready."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and server.poll() is None:
        words = path.read_text(encoding="utf-8").split()
        if "ready" in words:
            return next(word for word in words if word.startswith("http://"))
        time.sleep(0.1)
    raise AssertionError(path.read_text(encoding="utf-8"))
