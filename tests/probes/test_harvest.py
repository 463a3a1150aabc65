"""Harvested activations are those of each text alone, and survive interruption, a full disk and changed inputs."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from probes import activations as module
from probes.activations import Activations, Reading, batches, harvest
from probes.corpus import Corpus, Row
from probes.errors import HarvestError
from steering import LanguageModel
from steering.errors import InvalidRequest
from steering.hooks import capture, steer
from steering.models import wrap

READING = Reading(layers=(0, 2, 3), poolings=("last", "mean"), max_tokens=64)


def take(lm: LanguageModel, corpus: Corpus, folder: Path, reading: Reading = READING, **options: Any) -> Activations:
    return harvest(lm, corpus, folder, reading, **({"batch_tokens": 300, "shard_rows": 8} | options))


class Passes:
    """Counts the batches read, and raises `error` in place of batch number `fail_at`."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.count, self.fail_at, self.error = 0, fail_at, error
        self._read = module._read_batch

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        if self.error is not None and self.count == self.fail_at:
            raise self.error
        return self._read(*arguments)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Passes]:
    def install(fail_at: int | None = None, error: BaseException | None = None) -> Passes:
        counter = Passes(fail_at, error)
        monkeypatch.setattr(module, "_read_batch", counter)
        return counter

    yield install  # type: ignore[misc]
    monkeypatch.undo()


@pytest.mark.parametrize("which", ["lm", "mamba_lm"])
def test_a_harvested_activation_equals_a_forward_pass_of_the_text_alone(which, request, make_corpus, tmp_path):
    lm = request.getfixturevalue(which)
    corpus = make_corpus(20)
    taken = take(lm, corpus, tmp_path)
    for index, text in enumerate(corpus.texts):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        with torch.inference_mode(), capture(lm.model, READING.layers) as seen:
            lm.model(input_ids=ids)
        for layer in READING.layers:
            resid = seen[layer][0].numpy()
            np.testing.assert_allclose(taken.layer(layer, "last")[index], resid[-1], atol=1e-5)
            np.testing.assert_allclose(taken.layer(layer, "mean")[index], resid[1:].mean(axis=0), atol=1e-5)


def test_the_mean_leaves_out_the_first_token_unless_there_is_no_other():
    resid = torch.tensor([[[9000.0], [1.0], [3.0]], [[9000.0], [2.0], [7.0]], [[5.0], [7.0], [7.0]]])
    lengths = torch.tensor([3, 2, 1])
    assert module.pool(resid, lengths, "mean").flatten().tolist() == [2.0, 2.0, 5.0]
    assert module.pool(resid, lengths, "last").flatten().tolist() == [3.0, 2.0, 5.0]


def test_the_harvest_reads_the_point_that_steering_writes_to(lm, make_corpus, tmp_path):
    with steer(lm.model, {2: lambda resid: torch.zeros_like(resid)}):
        taken = take(lm, make_corpus(4), tmp_path)
    assert not taken.layer(2, "last").any()
    assert taken.layer(0, "last").any()


def test_long_texts_keep_their_beginning_and_are_counted(lm, tmp_path):
    corpus = Corpus("long", (Row(1, "abcdef" * 20, 0), Row(2, "short", 1)))
    taken = take(lm, corpus, tmp_path / "a", Reading(layers=(3,), max_tokens=6))
    assert taken.tally.truncated == 1
    assert taken.tally.tokens == 6 + 5
    beginning = take(lm, Corpus("cut", (Row(1, "abcdef", 0), Row(2, "short", 1))), tmp_path / "b", Reading(layers=(3,)))
    np.testing.assert_allclose(taken.layer(3, "last"), beginning.layer(3, "last"), atol=1e-5)


def test_batches_hold_every_text_once_within_the_budget():
    lengths = [5, 1, 9, 30, 2, 9]
    grouped = list(batches(lengths, batch_tokens=18))
    assert sorted(index for batch in grouped for index in batch) == list(range(6))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 18 or len(batch) == 1 for batch in grouped)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("power cut")])
def test_an_interrupted_harvest_resumes_without_computing_finished_shards(lm, make_corpus, tmp_path, passes, error):
    corpus = make_corpus(40)
    whole = take(lm, corpus, tmp_path / "whole")
    counter = passes(fail_at=4, error=error)
    with pytest.raises(type(error)):
        take(lm, corpus, tmp_path / "cut")
    finished = len(list((tmp_path / "cut").glob("shard-*.json")))
    assert 0 < finished < 5
    assert counter.count == 4

    counter = passes()
    told: list[int] = []
    resumed = take(lm, corpus, tmp_path / "cut", advance=told.append)
    in_all = counter.count
    assert told[0] == 8 * finished
    assert sum(told) == 40
    passes_of_a_whole_run = passes()
    take(lm, corpus, tmp_path / "again")
    assert in_all < passes_of_a_whole_run.count
    for layer in READING.layers:
        assert (resumed.layer(layer, "mean") == whole.layer(layer, "mean")).all()
    assert resumed.tally == whole.tally


def test_a_finished_harvest_computes_nothing_again(lm, make_corpus, tmp_path, passes):
    take(lm, make_corpus(10), tmp_path)
    counter = passes()
    take(lm, make_corpus(10), tmp_path)
    assert counter.count == 0


def test_leftovers_of_a_killed_write_are_not_taken_for_a_shard(lm, make_corpus, tmp_path):
    whole = take(lm, make_corpus(20), tmp_path / "whole")
    torn = tmp_path / "torn"
    take(lm, make_corpus(20), torn)
    (torn / "shard-00001.json").unlink()
    (torn / "shard-00001.last.npy").write_bytes(b"half a shard")
    (torn / ".partial-shard-00001.mean.npy").write_bytes(b"half")
    mended = take(lm, make_corpus(20), torn)
    assert (mended.layer(3, "last") == whole.layer(3, "last")).all()
    assert not list(torn.glob(".partial-*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"reading": Reading(layers=(1,), poolings=("last", "mean"), max_tokens=64)}, "layers"),
        ({"reading": Reading(layers=(0, 2, 3), max_tokens=64)}, "poolings"),
        ({"reading": Reading(layers=(0, 2, 3), poolings=("last", "mean"), max_tokens=9)}, "max_tokens"),
        ({"shard_rows": 4}, "shard_rows"),
    ],
)
def test_resuming_with_other_choices_is_refused_by_name(lm, make_corpus, tmp_path, change, named):
    take(lm, make_corpus(10), tmp_path)
    with pytest.raises(HarvestError, match=rf"other inputs \(different: {named}\).*--work"):
        take(lm, make_corpus(10), tmp_path, **change)


def test_resuming_with_other_texts_or_another_model_is_refused(lm, mamba_lm, make_corpus, tmp_path):
    take(lm, make_corpus(10), tmp_path)
    with pytest.raises(HarvestError, match="different: corpus"):
        take(lm, make_corpus(10, seed=1), tmp_path)
    with pytest.raises(HarvestError, match="different: model"):
        take(mamba_lm, make_corpus(10), tmp_path)


def test_a_full_disk_names_folder_and_bytes_and_keeps_finished_shards(lm, make_corpus, tmp_path, monkeypatch):
    save, calls = np.save, []

    def full(file: Any, array: Any, **options: Any) -> None:
        calls.append(file)
        if len(calls) > 2:  # both poolings of the first shard fit
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array, **options)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(HarvestError) as caught:
        take(lm, make_corpus(20), tmp_path)
    needed = 12 * 3 * 32 * 4 * 2 / 1e6
    assert f"no space left for activations in {tmp_path}: {needed:.1f} MB more" in str(caught.value)
    assert [path.name for path in tmp_path.glob("shard-*.json")] == ["shard-00000.json"]
    monkeypatch.setattr(np, "save", save)
    assert take(lm, make_corpus(20), tmp_path).tally.rows == 20


def test_too_little_space_is_said_before_the_first_forward_pass(lm, make_corpus, tmp_path, monkeypatch, passes):
    counter = passes()
    monkeypatch.setattr("probes.shards.shutil.disk_usage", lambda folder: SimpleNamespace(free=1))
    with pytest.raises(HarvestError, match=r"of which 0\.0 MB are free"):
        take(lm, make_corpus(10), tmp_path)
    assert counter.count == 0


def test_a_folder_that_cannot_be_written_is_refused(lm, make_corpus, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HarvestError, match="cannot write"):
        take(lm, make_corpus(10), tmp_path / "file" / "below")


def test_two_harvests_into_one_folder_are_refused(lm, make_corpus, tmp_path):
    taken = take(lm, make_corpus(10), tmp_path)
    with taken.shards.locked(), pytest.raises(HarvestError, match="another process"):
        take(lm, make_corpus(10), tmp_path)


def test_a_damaged_index_is_refused(lm, make_corpus, tmp_path):
    take(lm, make_corpus(10), tmp_path)
    (tmp_path / "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(HarvestError, match="damaged"):
        take(lm, make_corpus(10), tmp_path)


def test_activations_that_are_not_finite_name_layer_and_row(lm, make_corpus, tmp_path):
    def poison(resid: torch.Tensor) -> torch.Tensor:
        return torch.full_like(resid, torch.nan)

    with steer(lm.model, {2: poison}), pytest.raises(HarvestError, match=r"planted, row \d+: .* layer 2 is not finite"):
        take(lm, make_corpus(10), tmp_path)


def test_a_text_without_tokens_is_refused_by_row(lm, tmp_path, monkeypatch):
    class Silent:
        pad_token_id = 256

        def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[] if "mute" in text else [1] for text in texts]}

    silent = LanguageModel(lm.model, Silent(), lm.info, lm.tokenizer_info, lm.name)
    with pytest.raises(HarvestError, match="row 9: the tokenizer makes no tokens") as caught:
        take(silent, Corpus("quiet", (Row(8, "loud", 1), Row(9, "mute", 0))), tmp_path)
    assert "mute" not in str(caught.value)


def test_running_out_of_device_memory_names_the_way_out(lm, make_corpus, tmp_path, monkeypatch):
    def out_of_memory(**inputs: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(lm.model.base_model, "forward", out_of_memory)
    with pytest.raises(HarvestError, match="--batch-tokens"):
        take(lm, make_corpus(10), tmp_path)


def test_layers_the_model_lacks_are_refused(lm, make_corpus, tmp_path):
    with pytest.raises(InvalidRequest, match="0 to 3"):
        take(lm, make_corpus(10), tmp_path, Reading(layers=(4,)))


def test_texts_are_cut_to_the_context_of_the_model(lm, tmp_path):
    corpus = Corpus("long", (Row(1, "a" * 400, 0), Row(2, "b", 1)))
    assert take(lm, corpus, tmp_path, Reading(layers=(0,), max_tokens=10_000)).tally.tokens == lm.context + 1


def test_zero_tokens_are_refused(lm, make_corpus, tmp_path):
    with pytest.raises(HarvestError, match="max_tokens is 0"):
        take(lm, make_corpus(10), tmp_path, Reading(layers=(0,), max_tokens=0))


def test_a_tokenizer_without_a_pad_token_uses_its_end_of_text(lm, make_corpus, tmp_path):
    import copy

    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.pad_token = None
    other = wrap(lm.model, tokenizer, model_id="tiny-llama")
    ours, theirs = take(lm, make_corpus(10), tmp_path / "a"), take(other, make_corpus(10), tmp_path / "b")
    np.testing.assert_allclose(ours.layer(3, "last"), theirs.layer(3, "last"), atol=1e-5)
