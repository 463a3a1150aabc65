"""Harvested activations are those of each text alone, and survive interruption, a full disk and changed inputs."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from probes.errors import HarvestError
from probes.harvest import filling
from probes.harvest.activations import Activations, Reading, harvest
from probes.harvest.pooling import make_pool
from probes.texts.corpus import Corpus, Row
from steering import LanguageModel
from steering.errors import InvalidRequest, ModelError, UnsupportedModel
from steering.hooks import capture, steer

READING = Reading(layers=(0, 2, 3), poolings=("last", "mean"), max_tokens=64)


def take(lm: LanguageModel, corpus: Corpus, folder: Path, reading: Reading = READING, **options: Any) -> Activations:
    return harvest(lm, corpus, folder, reading, **({"batch_tokens": 300, "shard_rows": 8} | options))


class Passes:
    """Counts the batches read, and raises `error` in place of batch number `fail_at`."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.count, self.fail_at, self.error = 0, fail_at, error
        self._read = filling.read_batch

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        if self.error is not None and self.count == self.fail_at:
            raise self.error
        return self._read(*arguments)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Passes]:
    def install(fail_at: int | None = None, error: BaseException | None = None) -> Passes:
        counter = Passes(fail_at, error)
        monkeypatch.setattr(filling, "read_batch", counter)
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
    lengths = [3, 2, 1]
    assert make_pool("mean", lengths, cap=0)(resid).flatten().tolist() == [2.0, 2.0, 5.0]
    assert make_pool("last", lengths, cap=0)(resid).flatten().tolist() == [3.0, 2.0, 5.0]


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
    grouped = list(filling.batches(lengths, batch_tokens=18))
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
    with pytest.raises(HarvestError, match=rf"other inputs \(different: {named}: .* then, .* now.*--work"):
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
    monkeypatch.setattr("probes.harvest.shards.shutil.disk_usage", lambda folder: SimpleNamespace(free=1))
    with pytest.raises(HarvestError, match=r"of which 0\.0 MB are free"):
        take(lm, make_corpus(10), tmp_path)
    assert counter.count == 0


@pytest.mark.parametrize("below", ["", "below"])
def test_a_work_folder_that_is_a_file_is_refused(lm, make_corpus, tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(HarvestError, match=r"cannot write to .*file is a file, not a folder.*--work"):
        take(lm, make_corpus(10), tmp_path / "file" / below)


def test_a_folder_that_may_not_be_written_to_is_refused(lm, make_corpus, tmp_path, monkeypatch):
    def refuse(path: Path, *arguments: Any) -> None:  # chmod would not stop root
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("probes.harvest.storage.os.replace", refuse)
    with pytest.raises(HarvestError, match=r"cannot write to .* \(Permission denied\).*--work"):
        take(lm, make_corpus(10), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_is_refused(lm, make_corpus, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(HarvestError, match="cannot write"):
        take(lm, make_corpus(10), tmp_path / "new")


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


def changed(lm: LanguageModel, **options: Any) -> LanguageModel:
    """`lm` with another tokenizer: a copy on which `options` are set."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    for name, value in options.items():
        setattr(tokenizer, name, value)
    return replace(lm, tokenizer=tokenizer)


@pytest.mark.parametrize("token", [None, "a", "</s>"])
@pytest.mark.parametrize("which", ["lm", "mamba_lm"])
def test_no_pad_token_is_needed_and_which_one_pads_changes_nothing(which, token, request, make_corpus, tmp_path):
    lm = request.getfixturevalue(which)
    other = changed(lm, pad_token=token)
    assert (other.tokenizer.pad_token_id is None) == (token is None)
    reading = Reading(layers=(3,), poolings=("last", "mean", "all"))
    ours, theirs = (take(each, make_corpus(10), tmp_path / str(each is lm), reading) for each in (lm, other))
    for pooling in reading.poolings:
        np.testing.assert_array_equal(ours.layer(3, pooling), theirs.layer(3, pooling))


def test_a_chat_is_read_as_the_user_turn_up_to_where_the_answer_begins(lm, make_corpus, tmp_path):
    corpus = make_corpus(10)
    taken = take(lm, corpus, tmp_path, replace(READING, template="chat", max_tokens=200))
    assert taken.tally.truncated == 0
    for index, text in enumerate(corpus.texts):
        turn = lm.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False) + "[assistant]"
        ids = torch.tensor([lm.tokenizer(turn, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode(), capture(lm.model, [3]) as seen:
            lm.model(input_ids=ids)
        np.testing.assert_allclose(taken.layer(3, "last")[index], seen[3][0, -1].numpy(), atol=1e-5)
        np.testing.assert_allclose(taken.layer(3, "mean")[index], seen[3][0, 1:].mean(dim=0).numpy(), atol=1e-5)


def test_a_tokenizer_without_a_chat_template_is_refused_before_any_work(lm, make_corpus, tmp_path):
    with pytest.raises(HarvestError, match=r"no chat template; use --template raw"):
        take(changed(lm, chat_template=None), make_corpus(10), tmp_path, replace(READING, template="chat"))
    assert not list(tmp_path.iterdir())


def test_another_template_or_one_that_writes_another_date_is_another_harvest(lm, make_corpus, tmp_path):
    take(lm, make_corpus(10), tmp_path / "raw")
    chat = replace(READING, template="chat")
    with pytest.raises(HarvestError, match=r'different: template: "raw" then, "chat:'):
        take(lm, make_corpus(10), tmp_path / "raw", chat)
    take(changed(lm, chat_template="Monday: {{ messages[0].content }}"), make_corpus(10), tmp_path / "chat", chat)
    with pytest.raises(HarvestError, match=r'different: template: "chat:.* then, "chat:.* now .*the date'):
        take(changed(lm, chat_template="Tuesday: {{ messages[0].content }}"), make_corpus(10), tmp_path / "chat", chat)


def test_float16_shards_take_half_the_space_and_are_read_as_float32(lm, make_corpus, tmp_path):
    wide = take(lm, make_corpus(20), tmp_path / "wide")
    narrow = take(lm, make_corpus(20), tmp_path / "narrow", replace(READING, shard_dtype="float16"))
    for pooling in READING.poolings:
        values = narrow.layer(3, pooling)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, wide.layer(3, pooling).astype(np.float16).astype(np.float32))
    sizes = [sum(path.stat().st_size - 128 for path in folder.glob("*/*.npy")) for folder in (tmp_path,)]
    assert sum(path.stat().st_size - 128 for path in (tmp_path / "narrow").glob("*.npy")) * 3 == sizes[0]
    with pytest.raises(HarvestError, match='shard_dtype: "float32" then, "float16" now'):
        take(lm, make_corpus(20), tmp_path / "wide", replace(READING, shard_dtype="float16"))


def test_numbers_beyond_float16_name_layer_row_and_the_way_out(lm, make_corpus, tmp_path):
    with steer(lm.model, {2: lambda resid: resid.sign() * 1e5}):
        with pytest.raises(HarvestError, match=r"planted, row \d+: .* layer 2 reaches 100000.*--shard-dtype float32"):
            take(lm, make_corpus(10), tmp_path / "narrow", replace(READING, shard_dtype="float16"))
        take(lm, make_corpus(10), tmp_path / "wide")


@pytest.mark.parametrize("pooling", ["last", "mean", "all"])
def test_the_row_named_is_the_one_whose_numbers_are_not_finite(lm, tmp_path, pooling):
    def poison(resid: torch.Tensor) -> torch.Tensor:
        """Only a text of 7 tokens, alone in its batch, is not finite."""
        return torch.full_like(resid, torch.inf) if resid.shape[1] == 7 else resid

    rows = (Row(3, "abc", 0), Row(4, "abcdefg", 1), Row(5, "abcdefghijk", 1))
    with steer(lm.model, {2: poison}), pytest.raises(HarvestError, match=r"spoilt, row 4: .* layer 2 is not finite"):
        take(lm, Corpus("spoilt", rows), tmp_path, replace(READING, poolings=(pooling,)), batch_tokens=1)


def test_an_unknown_architecture_is_refused_before_any_work(lm, make_corpus, tmp_path):
    other = replace(lm, model=torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedModel, match="table of architectures"):
        take(other, make_corpus(10), tmp_path)
    assert not list(tmp_path.iterdir())


def test_blocks_that_do_not_call_their_hooks_are_refused_before_any_text(lm, make_corpus, tmp_path, passes):
    model = copy.deepcopy(lm.model)
    for block in model.model.layers:
        block.__class__ = type("Compiled", (type(block),), {"__call__": type(block).forward})
    counter = passes()
    with pytest.raises(ModelError, match=r"does not call the hooks of its blocks at layers \[0, 2, 3\]"):
        take(replace(lm, model=model), make_corpus(10), tmp_path)
    assert counter.count == 0


def test_other_labels_of_the_same_texts_share_one_harvest(lm, make_corpus, tmp_path, passes):
    corpus = make_corpus(10)
    take(lm, corpus, tmp_path)
    turned = Corpus("turned", tuple(replace(row, label=1 - row.label) for row in corpus.rows))
    counter = passes()
    taken = take(lm, turned, tmp_path)
    assert counter.count == 0
    assert taken.corpus.labels.tolist() == turned.labels.tolist()


def test_a_refused_run_leaves_another_s_unfinished_files_alone(lm, make_corpus, tmp_path):
    taken = take(lm, make_corpus(10), tmp_path)
    writing = tmp_path / ".partial-1-shard-00000.last.npy"
    writing.touch()
    with taken.shards.locked(), pytest.raises(HarvestError, match="another process"):
        take(lm, make_corpus(10), tmp_path)
    assert writing.exists()
