"""How far a run is, told to a program; and a run that ends with whoever started it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.__main__ import main
from eval.runner import commands
from eval.runner.errors import SpecError
from eval.runner.listener import Silent
from eval.runner.told import ProgressFile, errors_told
from steering import LanguageModel

ROOT = Path(__file__).resolve().parents[3]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_stage_that_begins_half_done_is_timed_by_what_is_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = ProgressFile(tmp_path / "progress", Silent())
    told.begin("writing", total=100, done=60)
    now[0] += 5
    told.advance(10)
    assert lines(tmp_path / "progress") == [
        {"stage": "writing", "done": 60, "total": 100, "eta_seconds": None},
        {"stage": "writing", "done": 70, "total": 100, "eta_seconds": 15.0},
    ]


def test_an_error_is_the_last_line_and_goes_on_its_way(tmp_path: Path) -> None:
    with pytest.raises(SpecError), errors_told(tmp_path / "progress"):
        raise SpecError("no", param="arms")
    assert lines(tmp_path / "progress") == [{"error": {"message": "no", "param": "arms", "refused": True}}]


def test_a_run_tells_its_stages_and_a_check_writes_nothing(
    write_spec: Callable[..., Path], lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "load_model", lambda name, threads: lm)
    spec, out, progress = str(write_spec()), tmp_path / "out", tmp_path / "progress"
    assert main(["run", spec, "--out", str(out), "--check"]) == 0
    assert not out.exists()
    assert main(["run", spec, "--out", str(out), "--progress", str(progress)]) == 0
    told = lines(progress)
    written = [(line["done"], line["total"]) for line in told if line["stage"] == "writing"]
    assert written[0] == (0, 50)
    assert written[-1] == (50, 50)
    assert list(dict.fromkeys(line["stage"] for line in told)) == ["writing", "logprob", "spanish", "layers"]
    assert main(["run", spec, "--out", str(out), "--progress", str(progress), "--max-rows", "49"]) == 2
    assert lines(progress)[-1]["error"]["param"] == "samples"
    assert "is 50 continuations; expected at most 49" in lines(progress)[-1]["error"]["message"]


def test_a_run_with_a_lifeline_ends_when_its_standard_input_does() -> None:
    code = """
import time
from eval.runner.lifeline import end_with_standard_input
end_with_standard_input()
print(1, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"1\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 130
