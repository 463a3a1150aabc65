"""SIGKILL in the middle of an upload, at every step of it, leaves a whole probe or none; SIGHUP reads all again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.holdings.shelf import Shelf
from steering.artefact import single_file
from steering.tiny import tiny_model, tiny_probe

ROOT = Path(__file__).resolve().parents[2]
PROBES = "/v1/steering/probes"
BINARY = {"content-type": "application/octet-stream"}

KILLED_AT_EACH_STEP = """
import os, signal, sys
from pathlib import Path
from service.holdings.shelf import Shelf
from steering.artefact import single_file
from steering.tiny import tiny_model, tiny_probe

lm = tiny_model()
probe = tiny_probe(lm, name="calm")
for step in range(1, 100):
    shelf = Shelf(Path(sys.argv[1]) / str(step), lm, level="exact")
    child = os.fork()
    if child == 0:
        taken = 0
        def counted(call):
            def counting(*arguments):
                global taken
                taken += 1
                if taken == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)
            return counting
        os.fsync, os.rename, os.mkdir = map(counted, (os.fsync, os.rename, os.mkdir))
        shelf.put(single_file(probe), probe)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        print(step)
        break
"""

SERVER = """
import os, sys, time
from pathlib import Path
import service.serve
from service import Loaded, Settings
from service.resident import start_engine
from steering import ProbeStore
from steering.tiny import tiny_model

lm, state = tiny_model(), Path(sys.argv[1])
rename = os.rename
def hanging(source, target):
    if (state / "hang").exists():
        (state / "hanging").touch()
        time.sleep(60)
    rename(source, target)
os.rename = hanging
service.serve.load = lambda settings, say: Loaded(start_engine(lm, settings), ProbeStore())
sys.exit(service.serve.serve(Settings(port=0, state=state), say=lambda line: print(line, flush=True)))
"""


def until(true: Callable[[], bool], *, seconds: float = 60) -> None:
    """Return when `true` is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
def test_an_upload_killed_at_any_step_leaves_a_whole_probe_or_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    steps = int(done.stdout)
    lm, found = tiny_model(), []
    file = single_file(tiny_probe(lm, name="calm"))
    for step in range(1, steps + 1):
        shelf = Shelf(tmp_path / str(step), lm, level="exact")
        store = shelf.open()  # verifies every byte of what is there
        found.append(len(store))
        assert shelf.put(file, tiny_probe(lm, name="calm")).get("calm@1").id == "calm@1"
        assert len(shelf.open()) == 1
    assert found == sorted(found)
    assert (found[0], found[-2], found[-1]) == (0, 1, 1), "killed before, after, and not at all"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
def test_a_server_killed_during_an_upload_keeps_what_it_confirmed_and_sighup_reads_all_again(
    serve: Any, tmp_path: Path
) -> None:
    lm = tiny_model()
    kept, lost = (single_file(tiny_probe(lm, name="calm", version=version)) for version in (1, 2))
    said: list[str] = []
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            reader = threading.Thread(target=said.extend, args=(process.stdout,))
            reader.start()
            until(lambda: any("ready after" in line for line in said) or process.poll() is not None)
            url = next(word for word in "".join(said).split() if word.startswith("http://"))
            with httpx.Client(base_url=url, timeout=30) as client:
                assert client.post(PROBES, content=kept, headers=BINARY).status_code == 201
                policy = {"steering": {"constraints": [{"probe": "calm"}]}}
                assert client.put("/v1/steering/policies/quiet", json=policy).status_code == 201

                other = tiny_probe(lm, name="other")
                Shelf(tmp_path, lm, level="exact").put(single_file(other), other)
                process.send_signal(signal.SIGHUP)
                until(lambda: client.get(f"{PROBES}/other").status_code == 200)

                (tmp_path / "hang").touch()

                def upload() -> None:
                    with suppress(httpx.TransportError):
                        client.post(PROBES, content=lost, headers=BINARY)

                uploading = threading.Thread(target=upload)
                uploading.start()
                until((tmp_path / "hanging").exists)
                process.kill()
                uploading.join()
        finally:
            process.kill()
            process.wait()
            reader.join()
    assert any("SIGHUP" in line and "other@1" in line for line in said)
    with serve(lm, [], state=tmp_path) as client:
        assert sorted(probe["id"] for probe in client.get(PROBES).json()["data"]) == ["calm@1", "other@1"]
        assert client.get(f"{PROBES}/calm@1/export").content == kept
        ask = {"prompt": "a", "max_tokens": 2, "steering": "quiet"}
        assert client.post("/generate", json=ask).json()["choices"][0]["steering"]["policy"] == "quiet"
        assert client.post(PROBES, content=lost, headers=BINARY).status_code == 201
