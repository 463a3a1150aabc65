"""Two real processes make what one makes, bit for bit; one that dies is survived or noticed; strangers are refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors.torch import load_file

from probes.harvest.processes import Team, team
from steering.tiny import tiny_model

ROOT = Path(__file__).parents[2]
WORKER = str(Path(__file__).with_name("team_harvest.py"))
ALONE = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ALONE}
    return (
        kept
        | {
            "OMP_NUM_THREADS": "1",
            "TILLER_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
        }
        | more
    )


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start(folder: Path, *, processes: int, die: str = "") -> list[subprocess.Popen[str]]:
    """A team without a launcher that would end the others when one fails."""
    port, started = free_port(), []
    for rank in range(processes):
        own = {} if processes == 1 else {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        own |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, WORKER, str(folder), die]
        started.append(
            subprocess.Popen(command, env=environment(**own), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return started


def finish(started: list[subprocess.Popen[str]], *, seconds: float = 120) -> list[tuple[int, str]]:
    """(exit code, stderr) of each; none may outlive the time allowed."""
    try:
        return [(each.wait(seconds), each.stderr.read() if each.stderr else "") for each in started]
    finally:
        for each in started:
            each.kill()
            each.communicate()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_two_processes_make_the_files_of_one_bit_for_bit(tmp_path):
    both = start(tmp_path / "both", processes=2)
    assert [code for code, _ in finish(both)] == [0, 0]
    assert finish(start(tmp_path / "one", processes=1))[0][0] == 0
    assert contents(tmp_path / "both") == contents(tmp_path / "one")
    assert len(list((tmp_path / "one" / "train").glob("shard-*.json"))) == 15


@pytest.mark.slow
def test_the_shard_of_a_process_that_died_is_read_by_another_which_then_stops_with_an_error(tmp_path):
    (first, said), (second, _) = finish(start(tmp_path, processes=2, die="1:train"))
    assert second == -9
    assert first == 2
    assert "another of the 2 processes of this run has ended" in said
    assert len(list((tmp_path / "train").glob("shard-*.json"))) == 15


@pytest.mark.slow
def test_nobody_waits_for_a_first_process_that_died(tmp_path):
    (first, _), (second, said) = finish(start(tmp_path, processes=2, die="0:train"))
    assert first == -9
    assert second == 2
    assert "another of the 2 processes of this run has ended" in said


@pytest.mark.slow
def test_a_team_is_refused_as_one_when_a_stranger_has_the_folder(tmp_path):
    (tmp_path / "train").mkdir()
    with FileLock(tmp_path / "train" / ".lock"):
        ended = finish(start(tmp_path, processes=2))
    assert [code for code, _ in ended] == [2, 2]
    assert all("another process is harvesting into" in said for _, said in ended)
    assert not list((tmp_path / "train").glob("shard-*"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_the_train_command_makes_the_same_probe_under_a_launcher(launcher, tmp_path, write_jsonl, planted):
    lm = tiny_model()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    train = ["-m", "probes", "train", "--model", str(tmp_path / "model"), "--data", str(write_jsonl(planted(300)))]
    train += ["--concept", "seas", "--layers", "1,3", "--max-tokens", "64", "--pooling", "best"]
    several = {
        "accelerate": [
            *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port()),
        ],
        "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()],
    }

    def run(name: str, *before: str) -> Path:
        command = [sys.executable, *before, *train, "--out", str(tmp_path / name)]
        home = environment(TILLER_HOME=str(tmp_path / f"home-{name}"))
        done = subprocess.run(command, env=home, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [str(tmp_path / name / "seas" / "1")], "one process speaks"
        assert not (tmp_path / f"home-{name}" / "harvest" / "seas-1").exists()
        return tmp_path / name / "seas" / "1"

    one, both = run("one"), run("both", "-m", *several[launcher])
    ours, theirs = (load_file(folder / "probe.safetensors") for folder in (one, both))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in ours)
    manifests = [json.loads((folder / "probe.json").read_text()) for folder in (one, both)]
    for manifest in manifests:
        manifest.pop("created")
        manifest.pop("files")  # the tensor file carries the manifest, and so its date, in its header
    assert manifests[0] == manifests[1]


def test_alone_a_team_decides_for_itself_and_takes_what_it_is_asked_for(monkeypatch):
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)
    team.cache_clear()
    assert team() == Team(1, 0, 0)
    assert team().first
    assert team().agree(lambda: 3) == 3
    assert team().device("auto") == "auto"
    assert team().threads(2) == 2


class Files:
    """A folder of shards in memory: what `Team.share` needs of one."""

    def __init__(self, held: set[int]) -> None:
        self.held, self.done = held, set[int]()

    def finished(self, shard: int) -> bool:
        return shard in self.done

    def claimed(self, shard: int):
        from contextlib import nullcontext

        return nullcontext(shard not in self.held and shard not in self.done)


def test_a_shard_whose_claim_is_given_back_is_taken_by_who_waits(monkeypatch):
    files, made = Files(held={2}), []

    def make(shard: int) -> None:
        made.append(shard)
        files.done.add(shard)

    def dies(seconds: float) -> None:
        files.held.clear()

    monkeypatch.setattr(time, "sleep", dies)
    Team(size=2, rank=1).share(files, [0, 1, 2, 3], make)  # type: ignore[arg-type]
    assert made == [3, 0, 1, 2]
