"""Bars of `benchmarks/load.py` at small size: no leak, no hang, no cross-talk, and nothing lost at SIGTERM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = "mixed,term"


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """What the benchmark measured, by stage."""
    command = [sys.executable, str(ROOT / "benchmarks" / "load.py")]
    command += ["--clients", "16", "--seconds", "4", "--only", STAGES]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert ran.stdout, ran.stderr[-4000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["bars_missed"] == [], ran.stderr[-4000:]
    assert ran.returncode == 0
    return {row["stage"]: row for row in told["rows"]}


@pytest.mark.slow
def test_under_load_every_answer_is_that_of_its_request_alone_and_who_leaves_frees_his_slot(rows: Any) -> None:
    row = rows["mixed"]
    assert {"answered", "left", "invalid"} <= set(row["counts"])
    assert (row["differing"], row["running_after"], row["waiting_after"]) == ({}, 0, 0)
    assert row["files"][1] <= row["files"][0]


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_request(rows: Any) -> None:
    row = rows["term"]
    assert row["counts"]["answered"] > 0
    assert (row["lost"], row["exit_code"]) == (0, 0)
