"""A harvest is whole or absent, shard by shard: after SIGKILL, a flipped byte, a truncated file or a full disk."""

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

import numpy as np
import pytest

from probes.errors import HarvestError
from probes.harvest import sealed, storage
from probes.harvest.activations import Activations, Reading, harvest
from probes.texts.corpus import Corpus
from steering import LanguageModel

ROOT = Path(__file__).parents[2]
READING = Reading(layers=(0, 3), poolings=("last", "mean"), max_tokens=64)
posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL, fork and resource limits are those of POSIX")


def take(lm: LanguageModel, corpus: Corpus, folder: Path, reading: Reading = READING, **options: Any) -> Activations:
    return harvest(lm, corpus, folder, reading, **({"batch_tokens": 300, "shard_rows": 8} | options))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def truncate(path: Path, at: int) -> None:
    os.truncate(path, at)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_harvest_killed_at_random_moments_ends_byte_for_byte_like_an_undisturbed_one(tmp_path, seed):
    kills = 16
    command = [sys.executable, str(Path(__file__).with_name("killed_harvest.py")), str(tmp_path), str(seed), str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["status"] == 0
    assert report["killed"] >= 8
    assert report["torn"] >= 2
    assert report["partial"] >= report["torn"], "a kill inside a write left no half file; the test sees no torn shard"
    assert len(set(report["finished"])) > 5, "kills should have fallen between many shards"
    assert report["rewritten"] == []
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize(("file", "at"), [("shard-00001.last.npy", 500), ("shard-00001.mean.npy", 3)])
def test_a_damaged_array_is_found_when_read_and_made_again_on_resuming(lm, make_corpus, tmp_path, damage, file, at):
    whole = take(lm, make_corpus(20), tmp_path)
    before, inodes = contents(tmp_path), {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    whole.layer(3, "last")  # hashed once already: a later change is still seen
    damage(tmp_path / file, at)
    with pytest.raises(HarvestError, match=rf"shard 1 of .* is damaged: .*{file}.*run the same command again"):
        whole.layer(3, "last" if "last" in file else "mean")
    told: list[str] = []
    take(lm, make_corpus(20), tmp_path, say=told.append)
    assert len(told) == 1
    assert "shard 1 is damaged (" in told[0]
    assert contents(tmp_path) == before
    kept = [path for path in tmp_path.glob("shard-*") if "00001" not in path.name]
    assert all(path.stat().st_ino == inodes[path.name] for path in kept)


def test_every_single_flipped_byte_of_a_seal_is_found(lm, make_corpus, tmp_path):
    taken = take(lm, make_corpus(4), tmp_path)
    seal = tmp_path / "shard-00000.json"
    sound = seal.read_bytes()
    for at in range(0, len(sound), 7):
        flip(seal, at)
        try:
            assert json.loads(seal.read_bytes()) == json.loads(sound), "only white space may change unseen"
        except (AssertionError, ValueError):
            with pytest.raises(HarvestError, match="shard 0 of"):
                taken.layer(0, "last")
        seal.write_bytes(sound)


def test_a_missing_array_is_found_and_made_again(lm, make_corpus, tmp_path):
    taken = take(lm, make_corpus(20), tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-00002.mean.npy").unlink()
    with pytest.raises(HarvestError, match=r"shard 2 .*No such file"):
        taken.layer(0, "mean")
    take(lm, make_corpus(20), tmp_path)
    assert contents(tmp_path) == before


def test_a_file_is_hashed_once_per_reader_and_not_once_per_layer(lm, make_corpus, tmp_path, monkeypatch):
    taken = take(lm, make_corpus(20), tmp_path)
    hashed: list[Path] = []

    def counting(path: Path) -> storage.Stamp:
        hashed.append(path)
        return storage.stamp_of(path)

    monkeypatch.setattr(sealed, "stamp_of", counting)
    for layer in READING.layers:
        taken.layer(layer, "last")
    assert len(hashed) == 3


def test_a_disk_that_fills_in_the_middle_of_an_array_leaves_no_half_file(lm, make_corpus, tmp_path, monkeypatch):
    write, written = storage._Hashed.write, [0]

    def filling(self: Any, data: bytes) -> int:
        written[0] += len(data)
        if written[0] > 15_000:  # in the data of the third array of a shard of 4 kB per pooling
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(storage._Hashed, "write", filling)
    with pytest.raises(HarvestError, match=r"no space left for activations in .* MB more are needed.*--shard-dtype"):
        take(lm, make_corpus(40), tmp_path)
    finished = len(list(tmp_path.glob("shard-*.json")))
    assert 0 < finished < 5
    assert not list(tmp_path.glob(".partial-*"))
    monkeypatch.undo()
    assert take(lm, make_corpus(40), tmp_path).tally.rows == 40


@posix
def test_a_limit_on_file_size_is_reported_like_a_full_disk(lm, make_corpus, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # an array takes 2.6 kB
    try:
        with pytest.raises(HarvestError, match="no space left"):
            take(lm, make_corpus(10), tmp_path, shard_rows=16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("shard-*.json"))
    assert take(lm, make_corpus(10), tmp_path, shard_rows=16).tally.rows == 10


def as_format_1(folder: Path, corpus: Corpus) -> None:
    """Rewrite a finished harvest as the first release wrote it: rows before layers, no hashes, the labelled corpus."""
    index = json.loads((folder / "index.json").read_text())
    for name in ("template", "tokens_per_text", "shard_dtype"):
        index.pop(name)
    (folder / "index.json").write_text(json.dumps(index | {"format": 1, "corpus": corpus.sha256}))
    for seal in folder.glob("shard-*.json"):
        entry = json.loads(seal.read_text())
        seal.write_text(json.dumps({name: entry[name] for name in ("rows", "tokens", "truncated")}))
    for path in folder.glob("shard-*.npy"):
        np.save(path, np.ascontiguousarray(np.load(path).swapaxes(0, 1)))


@pytest.fixture
def old_folder(lm, make_corpus, tmp_path) -> Callable[[], dict[tuple[int, Any], np.ndarray]]:
    """Makes `tmp_path` a folder of format 1 and returns its activations."""

    def make() -> dict[tuple[int, Any], np.ndarray]:
        taken = take(lm, make_corpus(20), tmp_path)
        values = {(layer, pooling): taken.layer(layer, pooling) for layer in (0, 3) for pooling in ("last", "mean")}
        as_format_1(tmp_path, make_corpus(20))
        return values

    return make


def test_a_folder_of_format_1_is_taken_over_without_reading_a_text(
    lm, make_corpus, tmp_path, old_folder, monkeypatch, planted
):
    values = old_folder()
    inodes = {path.name: path.stat().st_ino for path in tmp_path.glob("*.npy")}
    with monkeypatch.context() as patched:
        patched.setattr("probes.harvest.filling.read_batch", lambda *arguments: pytest.fail("a text was read"))
        for _ in range(2):  # the second time as a folder of the present format
            taken = take(lm, make_corpus(20), tmp_path)
            for (layer, pooling), expected in values.items():
                np.testing.assert_array_equal(taken.layer(layer, pooling), expected)
    assert {path.name: path.stat().st_ino for path in tmp_path.glob("*.npy")} == inodes
    assert taken.tally.rows == 20
    flip(tmp_path / "shard-00000.last.npy", 900)
    with pytest.raises(HarvestError, match="shard 0 of"):
        taken.layer(0, "last")


def test_an_unfinished_folder_of_format_1_is_continued(lm, make_corpus, tmp_path, old_folder):
    values = old_folder()
    (tmp_path / "shard-00001.json").unlink()
    truncate(tmp_path / "shard-00002.mean.npy", 200)  # never whole: its shape cannot be read
    taken = take(lm, make_corpus(20), tmp_path)
    for (layer, pooling), expected in values.items():
        np.testing.assert_array_equal(taken.layer(layer, pooling), expected)


def test_a_folder_of_format_1_with_other_inputs_is_refused(lm, make_corpus, tmp_path, old_folder):
    old_folder()
    with pytest.raises(HarvestError, match=r"different: corpus: .*the texts or their order"):
        take(lm, make_corpus(20, seed=1), tmp_path)
    with pytest.raises(HarvestError, match=r'different: template: "raw" then, "chat:'):
        take(
            lm,
            make_corpus(20),
            tmp_path,
            Reading(layers=(0, 3), poolings=("last", "mean"), max_tokens=64, template="chat"),
        )
    assert json.loads((tmp_path / "index.json").read_text())["format"] == 1


def test_shards_whose_index_is_gone_are_not_taken_for_those_of_other_inputs(lm, make_corpus, tmp_path):
    take(lm, make_corpus(10), tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(HarvestError, match=r"shards without index.json.*delete the folder"):
        take(lm, make_corpus(10, seed=1), tmp_path)
    assert not (tmp_path / "index.json").exists()
