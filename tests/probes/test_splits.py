"""Splits depend on the text alone, are disjoint, and leakage between files is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probes.errors import CorpusError
from probes.texts.corpus import Corpus, Row
from probes.texts.quality import checked
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


def test_dropping_a_leaked_text_takes_the_rest_of_its_group_along(make_corpus):
    rows = make_corpus(200).rows
    train = Corpus("train", (*(replace(row, group="author") for row in rows[:3]), *rows[3:]))
    tested = Corpus("tested", (replace(rows[0], number=1), *make_corpus(20, seed=9).rows[:4]))
    assert not {row.number for row in without(train, [tested]).rows} & {1, 2, 3}


def test_dropping_leaks_is_offered_only_where_it_helps(make_corpus):
    data, other = make_corpus(300), make_corpus(40, seed=5, name="one")
    with pytest.raises(CorpusError, match="--drop-leaks"):
        arrange(data, test=replace(data, name="tested", rows=data.rows[:40]))
    for clash in ({"test": other}, {"pairs": {"two": Corpus("two", _twins(other))}}):
        with pytest.raises(CorpusError, match=r"remove them from one of the files$"):
            arrange(data, calibration=other, **clash, drop_leaks=True)


def _twins(corpus: Corpus) -> tuple[Row, ...]:
    sides = [[row for row in corpus.rows if row.label == label] for label in (0, 1)]
    return tuple(replace(row, group=f"pair {at}") for side in sides for at, row in enumerate(side))


@pytest.mark.parametrize("name", ["test", "calibration", "train", "../up", "a/b", "", "pairs-a", "in domain"])
def test_a_test_set_has_a_name_that_no_part_has(make_corpus, name):
    with pytest.raises(CorpusError, match="cannot name a set of test texts"):
        arrange(make_corpus(300), out_of_domain={name: make_corpus(30, seed=9)}, drop_leaks=True)
    with pytest.raises(CorpusError, match="--pairs"):
        arrange(make_corpus(300), pairs={name: Corpus("p", _twins(make_corpus(30, seed=9)))}, drop_leaks=True)


def test_the_reports_of_two_files_of_one_name_are_both_kept(make_corpus):
    data, first, second = (checked(make_corpus(count, seed=seed)) for count, seed in ((300, 0), (20, 5), (30, 9)))
    parts = arrange(data, out_of_domain={"a": first}, test=without(second, [first]), drop_leaks=True)
    assert [report.name for report in parts.reports] == ["planted", "planted (2)", "planted (3)"]
    assert [report.texts for report in parts.reports] == [300, 30, 20]
