"""SIGTERM to a busy server: what can finish does, the rest is refused in the one shape, and the process exits 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .streams import slow_down

ROOT = Path(__file__).resolve().parents[2]
START = 180.0
"""Seconds a first start may take: it may fetch the model."""


def test_from_sigterm_on_nothing_new_is_taken_and_all_that_was_accepted_is_answered(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, 0.02)
    body = {"prompt": "Once upon a time", "max_tokens": 60, "logit_bias": {"258": -100}}

    def visit(client: httpx.Client) -> None:
        url = str(client.base_url)
        with ThreadPoolExecutor(6) as callers:
            asked = [callers.submit(client.post, "/generate", json=body) for _ in range(6)]
            while client.get("/ready").json()["running"] < 6:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            while (ready := httpx.get(f"{url}/ready")).status_code == 200:
                time.sleep(0.01)
            assert ready.json()["error"]["code"] == "draining"
            assert httpx.get(f"{url}/health").status_code == 200
            assert httpx.get(f"{url}/metrics").status_code == 200
            for route in ("/generate", "/v1/completions", "/v1/chat/completions"):
                late = httpx.post(f"{url}{route}", json=body)
                assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
                assert int(late.headers["retry-after"]) > 0
                assert late.headers["x-request-id"]
            replies = [reply.result() for reply in asked]
        assert [reply.status_code for reply in replies] == [200] * 6
        assert all(len(reply.json()["choices"][0]["token_ids"]) == 60 for reply in replies)

    began = time.monotonic()
    lines = serving(visit, "--drain-seconds", "60", stops=True)
    assert time.monotonic() - began < 50, "it did not wait for what it did not owe"
    assert [line["level"] for line in lines if line["level"] == "error"] == []


def test_a_second_signal_ends_the_wait_with_refusals(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch, 0.1)

    def visit(client: httpx.Client) -> None:
        body = {"prompt": "Once", "max_tokens": 200, "logit_bias": {"258": -100}}
        with ThreadPoolExecutor(1) as callers:
            asked = callers.submit(client.post, "/generate", json=body)
            while client.get("/ready").json()["running"] < 1:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
            assert not asked.done()
            os.kill(os.getpid(), signal.SIGTERM)
            reply = asked.result()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_unavailable")

    serving(visit, stops=True)


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
