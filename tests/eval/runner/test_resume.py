"""A run is whole or resumable: after SIGKILL, a damaged part, a full disk; and refused when it would be another run."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.runner import parts as parts_module
from eval.runner.errors import RunStopped, SpecError
from eval.runner.folder import RunFolder
from eval.runner.prepare import Prepared

ROOT = Path(__file__).parents[3]
Ready = Callable[..., Prepared]
Run = Callable[[Prepared, Path], dict[str, Any]]
posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL, fork and resource limits are those of POSIX")


def kept(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / "samples").glob("part-*.parquet")}


@posix
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_random_moments_ends_row_for_row_like_an_undisturbed_one(write_spec, rows_of, tmp_path, seed):
    spec = write_spec(samples=12, chunk=3)
    script = Path(__file__).with_name("killed_run.py")
    command = [sys.executable, str(script), str(spec), str(tmp_path), str(seed), "12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["status"] == 0
    assert report["rewritten"] == []
    assert len(set(report["finished"])) > 4, "kills should have fallen between many parts"
    assert rows_of(tmp_path / "torn") == rows_of(tmp_path / "whole")
    assert not list((tmp_path / "torn").rglob("*.tmp"))
    assert len(json.loads((tmp_path / "torn/provenance.json").read_text(encoding="utf-8"))["sessions"]) > 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_part_is_written_again_and_no_other(make_ready: Ready, do_run: Run, rows_of, tmp_path, damage):
    out = tmp_path / "out"
    do_run(make_ready(), out)
    whole, before = rows_of(out), kept(out)
    path = out / "samples/part-00002.parquet"
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[60] ^= 1
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
    (out / "samples.parquet").unlink()
    do_run(make_ready(), out)
    assert rows_of(out) == whole
    after = kept(out)
    assert {name for name in before if after[name] != before[name]} <= {path.name}


def test_a_finished_run_that_is_run_again_writes_nothing(make_ready: Ready, do_run: Run, tmp_path, monkeypatch):
    first = do_run(make_ready(), tmp_path / "out")
    prepared = make_ready()
    monkeypatch.setattr(prepared.writer, "write", lambda rows, decoding: pytest.fail("nothing is left to write"))
    assert do_run(prepared, tmp_path / "out") == first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"decoding": {"max_tokens": 7, "top_p": 0.9, "seed": 3}}, "decoding.max_tokens: 6, now 7"),
        ({"samples": 3}, "samples: 2, now 3"),
        ({"prompts": [{"name": "places", "texts": ["To the sea"]}]}, "prompts.places: 5, now 1"),
        ({"arms": ["none", {"controller": "slab", "upper": [0.2, 0.3]}]}, "now slab p<=0.3"),
        ({"arms": ["none"]}, "arms: 5 (none, slab p<=0.2, "),
        ({"scorers": [{"name": "vader"}]}, "scorers.spanish: spanish, now nothing; scorers.vader: nothing, now vader"),
    ],
)
def test_a_resumed_run_whose_spec_changed_is_refused_with_what_changed(
    make_ready: Ready, do_run: Run, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    do_run(make_ready(), tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(SpecError) as refused:
        do_run(make_ready(**changed), tmp_path / "out")
    assert message in str(refused.value)
    assert "Put that back to go on with it, or give another --out" in str(refused.value)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_two_processes_do_not_write_to_one_folder(make_ready: Ready, do_run: Run, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "out").locked(), pytest.raises(SpecError, match="another process is writing"):
        do_run(make_ready(), tmp_path / "out")


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_when_there_is_room(
    make_ready: Ready, do_run: Run, rows_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_run(make_ready(), tmp_path / "whole")
    real, calls = parts_module.pq.write_table, []

    def full(table: Any, path: Path, **options: Any) -> None:
        calls.append(path)
        if len(calls) > 6:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(table, path, **options)

    monkeypatch.setattr(parts_module.pq, "write_table", full)
    with pytest.raises(RunStopped, match=r"No space left on device.*what is finished is kept: free some space"):
        do_run(make_ready(), tmp_path / "out")
    assert len(kept(tmp_path / "out")) == 5
    assert not list((tmp_path / "out").rglob("*.tmp"))
    monkeypatch.undo()
    do_run(make_ready(), tmp_path / "out")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


@posix
def test_a_real_limit_on_the_size_of_files_is_reported_the_same_way(
    make_ready: Ready, do_run: Run, tmp_path: Path
) -> None:
    prepared = make_ready()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
        with pytest.raises(RunStopped, match="cannot be written"):
            do_run(prepared, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    do_run(prepared, tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_refused_in_words(make_ready: Ready, do_run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(RunStopped, match="cannot be written"):
        do_run(make_ready(), tmp_path / "file" / "out")
