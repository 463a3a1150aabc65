"""Pooling "all": the rows are the residuals of single tokens, capped, without the first, and know their text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probes.errors import HarvestError
from probes.harvest.activations import Activations, Reading, harvest
from probes.harvest.pooling import kept_positions, make_pool
from probes.texts.corpus import Corpus, Row
from steering import LanguageModel
from steering.hooks import capture

CAP = 5
READING = Reading(layers=(1, 3), poolings=("all", "last"), max_tokens=64, tokens_per_text=CAP)


def take(lm: LanguageModel, corpus: Corpus, folder: Path, reading: Reading = READING, **options: Any) -> Activations:
    return harvest(lm, corpus, folder, reading, **({"batch_tokens": 300, "shard_rows": 8} | options))


@pytest.mark.parametrize("cap", [1, 2, 3, 5, 16])
def test_at_most_the_cap_of_tokens_is_kept_evenly_and_never_the_first(cap):
    for length in range(2, 60):
        kept = kept_positions(length, cap=cap)
        assert len(kept) == min(length - 1, cap)
        assert kept == sorted(set(kept))
        assert kept[-1] == length - 1
        assert kept[0] >= 1
        gaps = np.diff(kept)
        if len(kept) > 1:
            assert kept[0] == 1, "the first that may be kept, so that the rows span the text"
            assert gaps.max() - gaps.min() <= 1
    assert kept_positions(1, cap=cap) == [0]


@pytest.mark.parametrize("which", ["lm", "mamba_lm"])
def test_every_row_equals_that_token_in_a_forward_pass_of_its_text_alone(which, request, make_corpus, tmp_path):
    lm = request.getfixturevalue(which)
    corpus = make_corpus(20)
    taken = take(lm, corpus, tmp_path)
    index = taken.token_index()
    for place, text in enumerate(corpus.texts):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        with torch.inference_mode(), capture(lm.model, READING.layers) as seen:
            lm.model(input_ids=ids)
        own = index[:, 0] == place
        positions = index[own, 1]
        assert positions.tolist() == kept_positions(ids.shape[1], cap=CAP)
        for layer in READING.layers:
            np.testing.assert_allclose(taken.layer(layer, "all")[own], seen[layer][0, positions].numpy(), atol=1e-5)


def test_owners_say_which_text_a_row_is_of(lm, make_corpus, tmp_path):
    corpus = make_corpus(20)
    taken = take(lm, corpus, tmp_path)
    owners = taken.owners("all")
    assert len(owners) == len(taken.layer(3, "all")) == taken.tally.kept
    assert (np.diff(owners) >= 0).all()
    assert set(owners.tolist()) == set(range(20))
    assert taken.owners("last").tolist() == list(range(20))


def test_the_last_kept_row_of_each_text_is_what_last_reads(lm, make_corpus, tmp_path):
    taken = take(lm, make_corpus(20), tmp_path)
    ends = np.append(np.diff(taken.owners("all")) > 0, True)
    np.testing.assert_array_equal(taken.layer(3, "all")[ends], taken.layer(3, "last"))


def test_with_room_for_every_token_the_mean_of_the_rows_is_the_mean_pooling(lm, make_corpus, tmp_path):
    reading = Reading(layers=(3,), poolings=("mean", "all"), tokens_per_text=64)
    taken = take(lm, make_corpus(10), tmp_path, reading)
    rows, owners = taken.layer(3, "all"), taken.owners("all")
    means = np.stack([rows[owners == text].mean(axis=0) for text in range(10)])
    np.testing.assert_allclose(means, taken.layer(3, "mean"), atol=1e-5)


def test_a_text_of_one_token_keeps_that_token(lm, tmp_path):
    taken = take(lm, Corpus("short", (Row(1, "a", 0), Row(2, "bcd", 1))), tmp_path)
    assert taken.token_index().tolist() == [[0, 0], [1, 1], [1, 2]]


def test_tokens_beyond_the_cut_are_not_kept(lm, tmp_path):
    reading = Reading(layers=(3,), poolings=("all",), max_tokens=4, tokens_per_text=16)
    taken = take(lm, Corpus("long", (Row(1, "abcdefgh", 0), Row(2, "xy", 1))), tmp_path, reading)
    assert taken.token_index().tolist() == [[0, 1], [0, 2], [0, 3], [1, 1]]


def test_padding_that_is_not_finite_stays_out_of_every_pooling():
    resid = torch.tensor([[[9.0], [1.0], [3.0]], [[9.0], [5.0], [torch.nan]]])
    for pooling in ("last", "mean", "all"):
        assert make_pool(pooling, [3, 2], cap=2)(resid).isfinite().all(), pooling


def test_shards_of_all_tokens_hold_fewer_texts_so_that_memory_stays_bounded(lm, make_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("probes.harvest.activations._SHARD_BYTES", 20 * 2 * 32 * 4 * CAP)
    every = harvest(lm, make_corpus(50), tmp_path / "all", READING)
    assert every.shards.inputs.shard_rows == 20
    alone = harvest(lm, make_corpus(50), tmp_path / "last", Reading(layers=(1, 3)))
    assert alone.shards.inputs.shard_rows == 512


def test_another_cap_is_another_harvest_where_it_matters_and_only_there(lm, make_corpus, tmp_path):
    take(lm, make_corpus(10), tmp_path / "all")
    other = Reading(layers=(1, 3), poolings=("all", "last"), max_tokens=64, tokens_per_text=6)
    with pytest.raises(HarvestError, match="tokens_per_text: 5 then, 6 now"):
        take(lm, make_corpus(10), tmp_path / "all", other)
    for cap in (5, 6):
        take(lm, make_corpus(10), tmp_path / "last", Reading(layers=(1, 3), max_tokens=64, tokens_per_text=cap))


def test_a_cap_below_one_is_refused(lm, make_corpus, tmp_path):
    with pytest.raises(HarvestError, match="tokens_per_text is 0"):
        take(lm, make_corpus(10), tmp_path, Reading(layers=(1,), poolings=("all",), tokens_per_text=0))
    assert not list(tmp_path.iterdir())
