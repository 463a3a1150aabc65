"""The README is true: its Python runs and prints what it says, its requests are accepted, its files exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)( no-run)?\n(.*?)```", README, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [body for found, skipped, body in BLOCKS if found == language and not skipped]


def test_the_python_on_the_first_screen_runs_and_prints_what_stands_below_it() -> None:
    (code,), (output,) = blocks("python"), blocks("text")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


def test_every_request_in_it_is_one_the_service_understands() -> None:
    from service.schemas.generation import GenerateRequest

    bodies = [json.loads(body) for body in blocks("json")]
    bodies += [json.loads(found) for found in re.findall(r"-d '(\{.*?\})'\n", "".join(blocks("bash")), flags=re.DOTALL)]
    assert len(bodies) == 2
    for body in bodies:
        assert GenerateRequest.model_validate(body).steering is not None


def test_every_make_target_and_command_in_it_exists(capsys: pytest.CaptureFixture[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", README, flags=re.MULTILINE)) <= targets
    commands = r"(?:`|^)tiller ((?:serve|demo|model get|probe (?:train|screen|show)|eval (?:run|rescore|specs)))\b"
    for command in set(re.findall(commands, README, flags=re.MULTILINE)):
        assert main([*command.split(), "--help"]) == 0
        assert "Usage" in capsys.readouterr().out


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_a_page_points_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_architectures_it_names_are_those_of_the_table() -> None:
    from steering.architectures import ARCHITECTURES

    named = re.search(r"architecture is in the table: (.*?)\. Others", README, flags=re.DOTALL)
    assert named is not None
    words = {re.sub(r"\W", "", word).lower() for word in re.split(r",|\band\b|\bthe\b", named[1].replace("-", ""))}
    known = {name.replace("_", "") for name in ARCHITECTURES} - {"gemma3text"}
    assert known <= {word.removeprefix("statespacemodels").removeprefix("hybrids") for word in words}


def test_the_compose_file_serves_on_cpu_by_default_keeps_models_and_probes_and_watches_readiness() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    cpu, gpu = compose["services"]["tiller"], compose["services"]["tiller-gpu"]
    assert "profiles" not in cpu
    assert gpu["profiles"] == ["gpu"]
    for service in (cpu, gpu):
        assert {volume.split(":")[0] for volume in service["volumes"]} == {"models", "probes"}
        assert "/ready" in " ".join(service["healthcheck"]["test"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "TILLER_ALLOW_PUBLIC=true" in dockerfile
    assert 'CMD ["tiller", "serve"]' in dockerfile
