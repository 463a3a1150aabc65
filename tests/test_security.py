"""SECURITY.md is true as far as a machine can tell: every test it names exists, and its commands are commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.cli import main
from service.protection.gate import OPEN_FOLDERS, OPEN_PATHS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| Threat"))]
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
}


def test_every_threat_names_tests_and_all_of_them_exist() -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        threat, done, covered = (cell.strip() for cell in row.strip("|").split(" | "))
        named = re.findall(r"`(test_\w+)`", covered)
        assert threat
        assert done
        assert named, f"{threat!r} is covered by no test"
        assert not set(named) - TESTS


def test_the_open_routes_it_names_are_those_there_are() -> None:
    (told,) = re.findall(r"every route needs one but (.*?),? which hold no data", PAGE, flags=re.DOTALL)
    assert set(re.findall(r"`(/[a-z]*/?)`", told)) == (set(OPEN_PATHS) | set(OPEN_FOLDERS)) - {"/favicon.ico"}


@pytest.mark.parametrize("command", sorted(set(re.findall(r"tiller (keys \w+|serve)", PAGE))))
def test_its_commands_have_the_options_it_gives_them(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for line in re.findall(rf"tiller {command}[^`\n]*", PAGE):
        for flag in re.findall(r"--[a-z-]+", line):
            assert flag in text
