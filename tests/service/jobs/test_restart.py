"""A server that is killed in the middle of an evaluation, and started again: the evaluation ends with the report it
would have had. The server and the runner are the real ones, around a tiny model.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from eval.runner.folder import RunFolder
from eval.runner.listener import Silent
from eval.runner.prepare import prepare
from eval.runner.reading import read_spec
from eval.runner.run import run
from steering import load_model, save_probe
from steering.tiny import tiny_model, tiny_probe

ROOT = Path(__file__).resolve().parents[3]
LIST = "/v1/steering/evaluations"
PATIENCE = 180.0
SPEC: dict[str, Any] = {
    "name": "places",
    "probe": "toxicity",
    "prompts": [{"name": "places", "texts": ["To the sea", "In the hills", "By a lake", "Over there", "At home"]}],
    "decoding": {"max_tokens": 8, "temperature": 0, "seed": 3},
    "samples": 2,
    "arms": ["none", {"controller": "prompt", "instruction": "Be kind"}, {"controller": "slab", "upper": 0.2}],
    "scorers": [{"name": "spanish"}],
    "chunk": 1,
}
_OF_THE_MOMENT = ("tokens_per_second", "provenance", "seconds", "left_out")


@contextmanager
def server(folder: Path, log: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--threads", "1", "--jobs-load-model"]
    command += ["--model", str(folder / "model"), "--probes", str(folder / "probes"), "--state", str(folder / "state")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment) as process:
        try:
            until(lambda: "ready after" in log.read_text(encoding="utf-8") or process.poll() is not None)
            assert process.poll() is None, log.read_text(encoding="utf-8")
            url = next(word for word in log.read_text(encoding="utf-8").split() if word.startswith("http://"))
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                yield client, process
        finally:
            process.kill()


def until(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def figures(report: Any) -> Any:
    """A report without what is of the moment it was made in, up to what the company of a row rounds differently."""
    if isinstance(report, float):
        return float(f"{report:.6g}")
    if isinstance(report, dict):
        return {key: figures(value) for key, value in report.items() if key not in _OF_THE_MOMENT}
    return [figures(value) for value in report] if isinstance(report, list) else report


@pytest.mark.slow
def test_a_job_whose_server_is_killed_is_taken_up_again_and_ends_with_the_same_report(tmp_path: Path) -> None:
    lm = tiny_model()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    lm = load_model(str(tmp_path / "model"), device="cpu", threads=1)
    save_probe(tiny_probe(lm), tmp_path / "probes")

    with server(tmp_path, tmp_path / "log-1") as (client, process):
        asked = client.post(LIST, json={"spec": SPEC})
        assert asked.status_code == 202, asked.text
        path = asked.headers["location"]
        until(lambda: client.get(path).json()["progress"]["done"] >= 8)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    kept = len(list(tmp_path.glob("state/jobs/*/samples/*.parquet")))
    assert kept > 0

    with server(tmp_path, tmp_path / "log-2") as (client, process):
        until(lambda: client.get(path).json()["state"] not in ("queued", "running"))
        assert client.get(path).json()["state"] == "done", client.get(path).json()
        report = client.get(f"{path}/report", params={"format": "json"}).json()
        page = client.get(f"{path}/report").text
        assert str(tmp_path) not in page
        assert str(tmp_path) not in json.dumps(report)
        assert len(report["provenance"]["sessions"]) == 2

        spec = tmp_path / "spec.json"
        spec.write_text(json.dumps(SPEC), encoding="utf-8")
        read = read_spec(str(spec), overrides={"server": str(client.base_url), "model": str(tmp_path / "model")})
        prepared = prepare(read, load=lambda name: lm)
        whole = run(prepared, RunFolder(tmp_path / "whole"), listener=Silent())
        prepared.writer.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert figures({name: report[name] for name in whole}) == figures(whole)
