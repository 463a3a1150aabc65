"""Requests nobody here wrote: Schemathesis makes them from the OpenAPI document, valid, spoilt, and in chains.

Every reply must be one the document declares for its route, of the declared type and shape, and no failure of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steering import LanguageModel

CONFIG = Path(__file__).with_name("schemathesis.toml")
SMALL = {"max_new_tokens": 8, "max_prompts": 4, "row_tokens": 64, "max_body_bytes": 20_000}
REQUESTS = 2000


@pytest.mark.slow
def test_no_generated_request_breaks_the_service_or_its_own_document(
    serve: Any, lm: LanguageModel, make_probe: Any, tmp_path: Path
) -> None:
    probes = [make_probe(lm), make_probe(lm, name="sentiment", layers=[0, 2], seed=6)]
    with serve(lm, probes, **SMALL) as client:
        command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG)]
        command += ["run", f"{client.base_url}/openapi.json", "--max-examples", "40", "--continue-on-failure"]
        command += ["--report", "json", "--report-json-path", str(tmp_path / "run.json"), "--no-color"]
        ran = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=600)
        assert client.get("/health").status_code == 200
        assert (client.get("/ready").json()["running"], client.get("/ready").json()["waiting"]) == (0, 0)
    assert ran.returncode == 0, ran.stdout[:20_000] + ran.stderr[-2000:]
    report = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert report["complete"]
    assert report["errors"] == report["failures"] == []
    assert report["operations"]["tested"] == report["operations"]["total"]
    assert report["test_cases"]["generated"] >= REQUESTS
