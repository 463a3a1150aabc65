"""Splits depend on the text alone, are disjoint, and leakage between files is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.errors import CorpusError
from probes.texts.corpus import Corpus, Row
from probes.texts.splits import folds, refuse_leakage, split, without
from probes.training.recipe import arrange

SHARES = {"train": 0.7, "calibration": 0.15, "test": 0.15}


def test_splits_are_disjoint_complete_and_near_their_shares(make_corpus):
    corpus = make_corpus(600)
    parts = split(corpus, SHARES)
    keys = [row.key for part in parts.values() for row in part.rows]
    assert sorted(keys) == sorted(row.key for row in corpus.rows)
    assert len(parts["train"]) / 600 == pytest.approx(0.7, abs=0.06)


def test_splits_are_deterministic_and_differ_by_seed(make_corpus):
    corpus = make_corpus(200)
    assert split(corpus, SHARES) == split(corpus, SHARES)
    assert split(corpus, SHARES, seed=1) != split(corpus, SHARES)


def test_adding_rows_moves_no_other_row(make_corpus):
    corpus = make_corpus(300)
    fewer = replace(corpus, rows=corpus.rows[:200])
    whole, part = split(corpus, SHARES), split(fewer, SHARES)
    assert all(set(part[name].rows) <= set(whole[name].rows) for name in SHARES)


def test_texts_equal_up_to_case_and_spacing_fall_together(make_corpus):
    corpus = make_corpus(200)
    copies = tuple(Row(row.number + 200, f" {row.text.upper()}  ", row.label) for row in corpus.rows)
    parts = split(replace(corpus, rows=corpus.rows + copies), SHARES)
    keys = [{row.key for row in part.rows} for part in parts.values()]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_groups_never_part(make_corpus):
    rows = tuple(replace(row, group=f"pair {row.number // 2}") for row in make_corpus(400).rows)
    parts = split(Corpus("pairs", rows), SHARES)
    groups = [{row.group for row in part.rows} for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_equal_texts_in_different_groups_are_refused(make_corpus):
    rows = [replace(row, group="a") for row in make_corpus(50).rows]
    rows.append(replace(rows[0], number=51, group="b"))
    with pytest.raises(CorpusError, match=r"row 51 is a repetition .* another group"):
        split(Corpus("torn", tuple(rows)), SHARES)


def test_too_few_texts_to_divide_are_refused(make_corpus):
    with pytest.raises(CorpusError, match=r"\((train|calibration|test)\)"):
        split(make_corpus(3), SHARES)


def test_shares_that_divide_nothing_are_refused(make_corpus):
    with pytest.raises(CorpusError, match="shares"):
        split(make_corpus(10), {"train": 0.0})


def test_folds_are_deterministic_and_keep_groups_together(make_corpus):
    corpus = make_corpus(90)
    assert folds(corpus, 3).tolist() == folds(corpus, 3).tolist()
    assert set(folds(corpus, 3)) == {0, 1, 2}
    one_group = replace(corpus, rows=tuple(replace(row, group="all") for row in corpus.rows))
    assert len(set(folds(one_group, 3))) == 1


def test_a_test_file_that_shares_texts_with_the_training_file_is_refused(make_corpus):
    train = make_corpus(100, name="train")
    leaky = Corpus("tweets", (*make_corpus(20, seed=9).rows[:5], replace(train.rows[3], number=6)))
    with pytest.raises(CorpusError, match=r"tweets shares 1 texts with train \(row 6 is there too"):
        refuse_leakage(train, [leaky])
    with pytest.raises(CorpusError, match="tweets shares 1 texts"):
        arrange(train, out_of_domain={"tweets": leaky})


def test_dropping_leaks_takes_them_from_the_training_side(make_corpus):
    train = make_corpus(300, name="train")
    leaky = replace(train, name="tweets", rows=train.rows[:10])
    parts = arrange(train, out_of_domain={"tweets": leaky}, drop_leaks=True)
    assert parts.dropped == 10
    assert len(parts.out_of_domain["tweets"]) == 10
    assert without(parts.train, [leaky]) is parts.train


def test_two_test_files_that_share_texts_are_refused_whatever_is_dropped(make_corpus):
    other = make_corpus(20, seed=5, name="one")
    with pytest.raises(CorpusError, match="two shares 20 texts with one"):
        arrange(make_corpus(300), test=other, out_of_domain={"two": other.renamed("two")}, drop_leaks=True)


def test_given_files_leave_their_share_to_training(make_corpus):
    train = make_corpus(200)
    parts = arrange(train, calibration=make_corpus(40, seed=7, name="c"), drop_leaks=True)
    assert len(parts.train) + len(parts.test) + parts.dropped == 200
