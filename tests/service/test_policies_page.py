"""docs/policies.md: every line of it can be pasted, in its order, and does what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from steering import LanguageModel

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policies.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page is about curl, which is not installed here")
def test_the_page_can_be_pasted_from_top_to_bottom(
    serve: Any, lm: LanguageModel, make_probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    replies = []
    with serve(lm, [make_probe(lm)]) as client:
        for language, text in blocks:
            if language == "python":
                exec(compile(text, str(PAGE), "exec"), {})
                continue
            line = text.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
            replies.append(json.loads(done.stdout) if done.stdout else None)
    assert [reply for reply in replies if reply is not None and "error" in reply] == []
    listed, exported, uploaded, score, _, put, generated, policies, _, reloaded = replies
    assert exported is None
    assert [probe["id"] for probe in listed["data"]] == ["toxicity@1"]
    assert uploaded["id"] == "mine@1"
    assert max(map(max, score["post"][len("My neighbour told me that") - 1 :])) <= 0.1
    assert put["steering"]["constraints"][0]["probe"] == "toxicity@1"
    assert generated["choices"][0]["steering"]["policy"] == "polite"
    assert [policy["name"] for policy in policies["data"]] == ["polite"]
    assert (reloaded["probes"], reloaded["policies"]) == (["toxicity@1"], [])
