"""The `llm` command, pointed at our server by its own configuration file."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm") is None, reason="llm is not installed (pip install llm)"
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def llm(client: httpx.Client, tmp_path: Path) -> Run:
    """`llm("prompt", ...)`: the command as a user runs it, with a chat model and a completion model of ours."""
    model = {"model_name": "tiny-llama", "api_base": f"{client.base_url}/v1"}
    models = [{"model_id": "tiller", **model}, {"model_id": "tiller-text", **model, "completion": True}]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")  # JSON is YAML
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "LLM"))}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llm", *words],
            env=own | {"LLM_USER_PATH": str(tmp_path), "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


def expected(client: httpx.Client, route: str, body: dict[str, Any]) -> str:
    """What our server answers to the same question."""
    choice = client.post(route, json=body | {"max_tokens": 12, "temperature": 0}).json()["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def told(command: subprocess.CompletedProcess[str]) -> str:
    """What it printed, without the line break it puts behind an answer."""
    assert command.returncode == 0, command.stderr
    return command.stdout.removesuffix("\n")


OPTIONS = ("-o", "max_tokens", "12", "-o", "temperature", "0")


def test_a_chat_is_streamed_and_logged_with_its_usage(llm: Run, client: httpx.Client) -> None:
    answer = expected(client, "/v1/chat/completions", {"messages": [{"role": "user", "content": "It was dark"}]})
    assert told(llm("-m", "tiller", "It was dark", *OPTIONS)) == answer
    (logged,) = json.loads(told(llm("logs", "--json")))
    assert logged["response"] == answer
    assert logged["input_tokens"] == len("[user]It was dark[assistant]")
    assert 1 <= logged["output_tokens"] <= 12


@pytest.mark.slow
def test_a_text_is_completed(llm: Run, client: httpx.Client) -> None:
    answer = expected(client, "/v1/completions", {"prompt": "It was dark"})
    assert told(llm("-m", "tiller-text", "It was dark", *OPTIONS)) == answer


def test_a_refusal_is_shown_to_the_user(llm: Run) -> None:
    refused = llm("-m", "tiller", "It was dark", "-o", "max_tokens", "4000")
    assert refused.returncode == 1
    assert "max_tokens is 4000, but this server gives at most 64 new tokens" in refused.stderr
