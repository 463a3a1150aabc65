"""Pairs stay together, whatever they share, and lose no side unnoticed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from probes.errors import CorpusError
from probes.texts.corpus import text_key
from probes.texts.labels import Columns
from probes.texts.pairs import PairColumns, read_pairs
from probes.texts.reading import read_texts
from probes.texts.splits import refuse_leakage, split
from probes.training.recipe import arrange

EN_ES = PairColumns(positive="es", negative="en")


def couples(count: int) -> list[dict[str, object]]:
    return [{"positive": f"with {index}", "negative": f"without {index}"} for index in range(count)]


def test_pairs_become_two_rows_of_one_group(write_jsonl):
    corpus = read_pairs(write_jsonl([{"en": "one", "es": "uno"}, {"en": "two", "es": "dos"}]), columns=EN_ES)
    assert [(row.number, row.text, row.label) for row in corpus.rows] == [
        (1, "one", 0),
        (1, "uno", 1),
        (2, "two", 0),
        (2, "dos", 1),
    ]
    first, second = corpus.rows[0].group, corpus.rows[2].group
    assert [row.group for row in corpus.rows] == [first, first, second, second]
    assert first != second


def test_a_side_may_be_a_list_of_texts(write_jsonl):
    corpus = read_pairs(write_jsonl([{"positive": "rude", "negative": ["kind", "kinder", "kindest"]}]))
    assert corpus.texts == ["kind", "kinder", "kindest", "rude"]
    assert corpus.labels.tolist() == [0, 0, 0, 1]
    assert len({row.group for row in corpus.rows}) == 1


def test_adding_pairs_moves_no_pair_to_another_split(write_jsonl):
    shares = {"train": 0.6, "test": 0.4}
    some = split(read_pairs(write_jsonl(couples(40))), shares)
    more = split(read_pairs(write_jsonl([*couples(90)[60:], *couples(40)])), shares)
    assert all(set(some[side].texts) <= set(more[side].texts) for side in shares)


def test_pairs_that_share_a_text_never_part(write_jsonl):
    """Chains a-b, b-c, c-d: whatever the seed and the order of rows, the whole chain is on one side."""
    chain = [
        {"positive": f"with {index}", "negative": [f"without {index}", f"without {index + 1}"]} for index in range(5)
    ]
    records = [*chain, *({"positive": f"p {i}", "negative": f"n {i}"} for i in range(40))]
    for seed in range(8):
        random.Random(seed).shuffle(records)
        corpus = read_pairs(write_jsonl(records), drop_duplicates=True)
        assert corpus.reports[0].joined_groups == 4
        assert corpus.reports[0].duplicates == 4
        parts = split(corpus, {"train": 0.5, "test": 0.5}, seed=seed)
        chained = [sum(text.startswith("with") for text in part.texts) for part in parts.values()]
        assert sorted(chained) in ([0, 10], [0, 11])


def test_a_repeated_text_is_refused_unless_dropped(write_jsonl):
    path = write_jsonl([*couples(3), {"positive": "other", "negative": "WITHOUT  0"}])
    with pytest.raises(CorpusError, match="row 4 is a repetition"):
        read_pairs(path)
    assert len(read_pairs(path, drop_duplicates=True)) == 7


def test_a_contradiction_takes_the_other_side_of_its_pair_along(write_jsonl):
    path = write_jsonl([*couples(20), {"positive": "without 3", "negative": "new"}])
    with pytest.raises(CorpusError, match="under the other label"):
        read_pairs(path)
    corpus = read_pairs(path, max_label_noise=0.05)
    report = corpus.reports[0]
    assert report.contradictory == 1
    assert "without 3" not in corpus.texts
    sides = {row.group: {other.label for other in corpus.rows if other.group == row.group} for row in corpus.rows}
    assert all(labels == {0, 1} for labels in sides.values())
    assert report.texts == len(corpus) + report.unpaired + 2
    assert {"with 3", "new"} <= set(corpus.texts), "the two pairs were one group, which keeps a text on each side"


def test_a_pair_of_one_text_only_leaves_nothing_behind(write_jsonl):
    path = write_jsonl([*couples(30), {"positive": "same", "negative": ["Same", "other"]}])
    corpus = read_pairs(path, max_label_noise=0.05)
    assert corpus.reports[0].contradictory == 1
    assert corpus.reports[0].unpaired == 1
    assert len(corpus) == 60


@pytest.mark.parametrize("cell", [None, "", [], 5, ["fine", 5], [None], {"a": "b"}])
def test_a_side_without_text_is_refused_by_row(write_jsonl, cell):
    with pytest.raises(CorpusError, match="row 2"):
        read_pairs(write_jsonl([*couples(1), {"positive": "with", "negative": cell}]))


def test_a_missing_column_is_refused_with_its_flag(write_jsonl):
    with pytest.raises(
        CorpusError, match=r"row 1: no column 'en'; the columns are: positive, negative.*--pair-columns"
    ):
        read_pairs(write_jsonl(couples(2)), columns=EN_ES)


@pytest.mark.parametrize("text", ["toxic", "toxic,", "a,b,c", "a,a", ""])
def test_pair_columns_that_are_not_two_are_refused(text):
    with pytest.raises(CorpusError, match="toxic,neutral"):
        PairColumns.parse(text)
    assert PairColumns.parse("toxic, neutral") == PairColumns(positive="toxic", negative="neutral")


def test_half_a_surrogate_in_a_pair_is_refused_by_row(write_jsonl):
    with pytest.raises(CorpusError, match="row 2 is not valid Unicode"):
        read_pairs(write_jsonl([*couples(1), {"positive": "\ud800", "negative": "fine"}]))


def test_pairs_of_two_files_that_share_no_text_share_no_group(write_jsonl):
    first = read_pairs(write_jsonl(couples(5), "a.jsonl"))
    second = read_pairs(write_jsonl([{"en": f"n {i}", "es": f"p {i}"} for i in range(5)], "b.jsonl"), columns=EN_ES)
    refuse_leakage(first, [second])
    with pytest.raises(CorpusError, match="shares"):
        refuse_leakage(first, [read_pairs(write_jsonl(couples(1), "c.jsonl"))])


def test_a_file_is_read_as_pairs_only_where_it_has_no_text_column(write_jsonl):
    plain = [{"text": f"t {i}", "label": i % 2, "positive": "x", "negative": "y"} for i in range(4)]
    options = {"columns": Columns(), "pair_columns": PairColumns()}
    assert read_texts(write_jsonl(plain, "a.jsonl"), **options).texts == ["t 0", "t 1", "t 2", "t 3"]
    assert len(read_texts(write_jsonl(couples(3), "b.jsonl"), **options)) == 6


def test_toxic_and_neutral_pairs_divide_without_a_leak():
    path = Path(__file__).parents[3] / "shared" / "data" / "toxicity" / "paradetox_pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip("the data sets are not beside this checkout (../shared/data)")
    columns = PairColumns(positive="toxic", negative="neutral")
    corpus = read_pairs(path, columns=columns, drop_duplicates=True, max_label_noise=0.01)
    report = corpus.reports[0]
    assert 0 < report.contradictory < 0.01 * report.texts
    assert report.joined_groups > 0
    parts = arrange(corpus)
    keys = [{text_key(text) for text in part.texts} for part in (parts.train, parts.calibration, parts.test)]
    assert sum(map(len, keys)) == len(set.union(*keys)) == len(corpus)
    assert parts.reports == (report,)


def test_pairs_of_one_author_never_part(write_jsonl):
    records = [couple | {"author": f"author {at % 8}" if at < 40 else None} for at, couple in enumerate(couples(60))]
    path = write_jsonl(records)
    corpus = read_texts(path, columns=Columns(group="author"), pair_columns=PairColumns())
    assert len({row.group for row in corpus.rows}) == 8 + 20
    parts = split(corpus, {"train": 0.5, "test": 0.5})
    authors = [{records[row.number - 1]["author"] for row in part.rows} - {None} for part in parts.values()]
    assert authors[0] | authors[1] == {f"author {at}" for at in range(8)}
    assert not authors[0] & authors[1]
    with pytest.raises(CorpusError, match=r"no column 'writer'.*--group-column"):
        read_texts(path, columns=Columns(group="writer"), pair_columns=PairColumns())
