"""Flags, environment, file, default: one precedence, nothing ignored, and the server says where each value is from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from service.cli import main
from service.configuration import configure, misspelt_variables, read_settings
from service.settings import Settings
from steering.errors import InvalidRequest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiller.toml"
    path.write_text('port = 1001\nslots = 2\ndevice = "cpu"\ncompile = true\ndeadline_seconds = 5\n', encoding="utf-8")
    return path


def test_a_flag_is_stronger_than_the_environment_and_that_than_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILLER_PORT", "1002")
    monkeypatch.setenv("TILLER_SLOTS", "3")
    configuration = configure({"config": file, "port": 1003, "compile": False, "slots": None})
    settings = configuration.settings
    assert (settings.port, settings.slots, settings.device, settings.compile) == (1003, 3, "cpu", False)
    assert settings.deadline_seconds == 5
    assert settings.max_queue == 256
    expected = {"port": "flag", "slots": "environment", "device": "file", "compile": "flag", "max_queue": None}
    assert {name: configuration.origins.get(name) for name in expected} == expected


def test_the_file_may_be_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILLER_CONFIG", str(file))
    assert read_settings().port == 1001


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "is it port?"),
        ("max-queue = 1", "is it max_queue?"),
        ("zzz = 1", "--print-config"),
        ("config = 'other.toml'", "no setting"),
        ("[server]\nport = 1", "no setting"),
        ("port = 70000", "port in"),
        ("port = 'many'", "port in"),
        ("port: 1", "is not TOML"),
        ("max_queue = 3", "at least twice max_prompts"),
    ],
)
def test_a_bad_file_is_one_line_with_the_way_out(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiller.toml"
    path.write_text(text, encoding="utf-8")
    assert main(["serve", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 2
    assert "--config (TILLER_CONFIG)" in capsys.readouterr().err


def test_the_printed_configuration_says_where_each_value_is_from_and_is_itself_such_a_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TILLER_MAX_QUEUE", "100")
    flags = ["--config", str(file), "--no-compile", "--probes", str(tmp_path)]
    assert main(["serve", *flags, "--print-config"]) == 0
    text = capsys.readouterr().out
    for line in (
        "port = 1001  # file",
        "max_queue = 100  # environment",
        "compile = false  # flag",
        "# threads is unset",
    ):
        assert line in text.splitlines()
    copy = tmp_path / "copy.toml"
    copy.write_text(text, encoding="utf-8")
    monkeypatch.delenv("TILLER_MAX_QUEUE")
    first = configure({"config": file, "max_queue": 100, "compile": False, "probes": tmp_path}).settings
    assert read_settings(config=copy) == first.model_copy(update={"config": copy})
    assert set(tomllib.loads(text)) <= set(Settings.model_fields)


def test_every_flag_has_the_help_of_its_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} has no docstring"
        assert " ".join(field.description.split()).partition("`")[0].strip()[:40] in text


def test_a_variable_that_is_nearly_a_setting_is_told_of_and_others_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TILLER_MAX_QUEU", "5")
    monkeypatch.setenv("TILLER_SERVICE_SERVICE_HOST", "192.0.2.1")
    (line,) = misspelt_variables()
    assert "TILLER_MAX_QUEU " in line
    assert "TILLER_MAX_QUEUE" in line


def test_a_value_of_the_environment_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILLER_PORT", "tcp://192.0.2.1:8000")
    with pytest.raises(InvalidRequest, match="TILLER_PORT"):
        configure({})
