"""The command line: help that teaches, errors in one line, exit codes that mean something."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

import service.resident
import service.serve
from service.cli import main
from service.configuration import read_settings
from service.serve import _listen
from service.settings import Settings
from steering import LanguageModel, save_probe
from steering.errors import InvalidRequest
from steering.version import __version__


def test_help_shows_commands_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("serve", "demo", "model", "probe", "eval", "Examples", "tiller serve --model", "TILLER_<NAME>"):
        assert word in text


@pytest.mark.parametrize("command", [["serve"], ["demo"], ["model", "get"]])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert "Usage: tiller " + " ".join(command) in capsys.readouterr().out


def test_the_help_of_serve_has_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("door", ["probe", "eval"])
def test_the_doors_pass_their_arguments_on(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([door, "--help"]) == 0
    assert f"tiller {door}" in capsys.readouterr().out
    assert main([door, "--no-such-flag"]) == 2


@pytest.mark.parametrize("door", ["probe", "eval"])
def test_a_missing_extra_is_named(
    door: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = {"probe": "probes", "eval": "eval"}[door]
    monkeypatch.setitem(sys.modules, f"{package}.__main__", None)
    assert main([door, "--help"]) == 2
    extra = {"probe": "probes", "eval": "eval"}[door]
    assert f"pip install 'tiller-lm[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_a_public_bind_is_refused_unless_asked_for(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", host]) == 2
    assert "--allow-public" in capsys.readouterr().err
    Settings(host=host, allow_public=True).check_bind()
    Settings(host="127.0.0.1").check_bind()
    Settings(host="::1").check_bind()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "70000"], "--port (TILLER_PORT) is 70000"),
        (["--dtype", "float8"], "--dtype (TILLER_DTYPE) is 'float8'"),
        (["--threads", "0"], "--threads (TILLER_THREADS) is 0"),
        (["--max-queue", "3"], "at least twice max_prompts"),
        (["--probe-compat", "loose"], "'exact', 'architecture' or 'width'"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *flags]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_an_unknown_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--prot", "1"]) == 2
    assert "--prot" in capsys.readouterr().err


def test_a_flag_is_stronger_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILLER_PORT", "1234")
    monkeypatch.setenv("TILLER_DEVICE", "")
    assert read_settings(port=None).port == 1234
    assert read_settings(port=99).port == 99
    assert read_settings().device == "auto"
    monkeypatch.setenv("TILLER_PORT", "none")
    with pytest.raises(InvalidRequest, match="TILLER_PORT"):
        read_settings()


def test_an_unknown_embedded_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "get", "gpt-9"]) == 2
    assert "smollm2-135m-instruct" in capsys.readouterr().err


def test_a_taken_port_is_refused_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert "Address already in use; give another --port" in said


def test_no_reply_waits_for_an_acknowledgement_of_its_first_part() -> None:
    with _listen(Settings(port=0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*args: object, **kwargs: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(service.serve, "serve", interrupted)
    assert main(["serve"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, lm: LanguageModel) -> LanguageModel:
    """`tiller serve --model tiny` serves the tiny model of the tests."""
    monkeypatch.setattr(service.resident, "load_model", lambda name, **_: lm)
    return lm


@pytest.mark.parametrize("held", [[], ["--default-policy", "calm", "--no-opt-out"]])
def test_serve_says_where_it_is_and_ends_with_0_on_sigterm(
    tiny: LanguageModel, tmp_path: Path, make_probe: Any, capfd: pytest.CaptureFixture[str], held: list[str]
) -> None:
    save_probe(make_probe(tiny), tmp_path)
    text = ""

    def stop_when_ready() -> None:
        nonlocal text
        while "docs:" not in text:
            time.sleep(0.02)
            text += capfd.readouterr().out
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_ready)
    stopper.start()
    flags = ["--port", "0", "--probes", str(tmp_path), "--log-level", "critical"]
    assert main(["serve", "--model", "tiny", *flags, *held]) == 0
    stopper.join()
    assert "listens on http://127.0.0.1:" in text
    assert "playground: http://127.0.0.1:" in text
    assert "self-test passed at 4 layers" in text
    assert "toxicity@1" in text
    assert "curl http://127.0.0.1:" in text
    assert ('"steering"' in text) is not bool(held)  # what is proposed would be refused where every request is held
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_serve_ends_with_2_when_loading_fails(
    tiny: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--port", "0", "--probes", str(tmp_path / "none"), "--log-level", "critical"]
    assert main(["serve", "--model", "tiny", *flags]) == 2
    assert "there is no probe folder" in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_lets_accepted_requests_finish_and_exits_0(embedded: Any) -> None:
    command = [sys.executable, "-P", "-m", "service", "serve", "--port", "0", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split("listens on ")[1].split()[0]
        while httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.2)
        replies: list[httpx.Response] = []
        ask = {"prompt": "Once", "max_tokens": 60}
        thread = threading.Thread(target=lambda: replies.append(httpx.post(f"{url}/generate", json=ask, timeout=120)))
        thread.start()
        time.sleep(0.5)
        process.terminate()
        thread.join()
        assert process.wait(60) == 0
    assert replies[0].status_code == 200
