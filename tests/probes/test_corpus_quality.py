"""Label noise over the stated rate is refused, below it left out and counted; groups hold together."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import pytest

from probes.errors import CorpusError
from probes.texts.corpus import IMBALANCE, Corpus, CorpusReport, Row, combine
from probes.texts.quality import Gates, checked
from probes.texts.splits import refuse_leakage, split, without
from probes.training.recipe import arrange


def corpus_of(*rows: tuple[str, int] | tuple[str, int, str | None], name: str = "made") -> Corpus:
    return Corpus(name, tuple(Row(at, *row) for at, row in enumerate(rows, start=1)))


def noisy(clean: int, contradictions: int) -> Corpus:
    rows = [(f"clean {index}", index % 2) for index in range(clean)]
    rows += [(f"noisy {index}", label) for index in range(contradictions) for label in (0, 1)]
    return corpus_of(*rows)


def test_by_default_any_contradiction_is_refused():
    with pytest.raises(CorpusError, match=r"row 101 is .* other label .*: 1 of 100 .* a share of 0\.01 .* allows 0;"):
        checked(noisy(99, 1))


def test_noise_is_refused_just_above_the_stated_rate_and_left_out_at_it():
    corpus = noisy(98, 2)  # 2 of 100 different texts
    with pytest.raises(CorpusError, match=r"a share of 0\.02 where --max-label-noise allows 0\.019"):
        checked(corpus, max_label_noise=0.019)
    kept = checked(corpus, max_label_noise=0.02)
    assert kept.rows == corpus.rows[:98]
    assert kept.reports == (CorpusReport("made", texts=102, counts={"0": 49, "1": 49}, contradictory=2),)
    assert kept.reports[0].findings == ["made: 2 texts under both labels left out"]


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(CorpusError, match="no rate"):
        Gates(max_label_noise=rate)


def test_every_row_of_a_contradictory_text_goes_repetitions_included():
    corpus = corpus_of(("a", 0), ("b", 1), ("c", 0), ("A", 1), (" a", 0), ("a ", 1))
    kept = checked(corpus, max_label_noise=0.5)
    assert kept.texts == ["b", "c"]
    assert (kept.reports[0].contradictory, kept.reports[0].duplicates) == (1, 0)


def test_noise_that_takes_a_whole_class_is_refused():
    with pytest.raises(CorpusError, match="all 1 texts have label 0"):
        checked(corpus_of(("a", 0), ("b", 0), ("b", 1)), max_label_noise=0.9)
    with pytest.raises(CorpusError, match="made"):
        checked(corpus_of(("a", 0), ("a", 1)), max_label_noise=0.9)


def test_the_report_accounts_for_every_text():
    random_ = random.Random(0)
    rows = [(f"t {random_.randrange(150)}", 0) for _ in range(200)]
    rows = [(text, int(text[-1] in "13579") if random_.random() < 0.98 else random_.randrange(2)) for text, _ in rows]
    report = (kept := checked(corpus_of(*rows), drop_duplicates=True, max_label_noise=0.5)).reports[0]
    labels = defaultdict(list)
    for text, label in rows:
        labels[text].append(label)
    contradictory = [found for found in labels.values() if len(set(found)) == 2]
    assert contradictory, "the example has noise"
    assert report.texts == 200
    assert report.contradictory == len(contradictory)
    assert report.duplicates == sum(len(found) - 1 for found in labels.values() if len(set(found)) == 1)
    assert report.counts == kept.counts
    assert len(kept) == 200 - report.duplicates - sum(map(len, contradictory))


@pytest.mark.parametrize(("positive", "imbalanced"), [(19, True), (20, False), (50, False), (80, False), (81, True)])
def test_imbalance_is_reported_below_the_stated_share_of_either_class(positive, imbalanced):
    report = checked(corpus_of(*((f"t {index}", int(index < positive)) for index in range(100)))).reports[0]
    assert report.imbalanced is imbalanced is (report.minority < IMBALANCE)
    assert any("class imbalance" in line for line in report.findings) is imbalanced


def test_a_report_names_the_rarer_label():
    report = checked(corpus_of(*((f"t {index}", int(index < 95)) for index in range(100)))).reports[0]
    assert report.findings == [
        "made: class imbalance: label 0 has 5.0% of 100 texts; read its AUROC rather than its accuracy"
    ]


def test_groups_that_share_a_text_are_put_together_before_it_is_dropped():
    grouped = [(f"{group} {index}", index % 2, group) for group in ("ann", "bob", "cid", "dan") for index in range(4)]
    shared = [("hello", 0, "bob"), ("Hello", 0, "ann"), ("bye", 1, "cid"), ("BYE", 1, "bob")]
    kept = checked(corpus_of(*grouped, *shared), drop_duplicates=True)
    assert {row.group for row in kept.rows} == {"ann", "dan"}
    assert kept.joined == {"bob": "ann", "cid": "ann"}
    assert kept.groups == {"ann", "bob", "cid", "dan"}
    assert kept.reports[0].joined_groups == 2


def test_joining_depends_on_no_order_and_agrees_with_a_plain_search():
    random_ = random.Random(3)
    rows = [(f"word {random_.randrange(60)}", 0, f"g{random_.randrange(40)}") for _ in range(80)] + [("x", 1, None)]
    expected: list[set[str]] = []
    for text in {text for text, *_ in rows}:
        found = {str(group) for other, _, group in rows if other == text and group is not None}
        touching = [one for one in expected if one & found]
        expected = [one for one in expected if not one & found] + [found.union(*touching)]
    for _ in range(3):
        random_.shuffle(rows)
        kept = checked(corpus_of(*rows), drop_duplicates=True)
        components = defaultdict(set)
        for group in kept.groups:
            components[kept.joined.get(group, group)].add(group)
        assert sorted(map(sorted, components.values())) == sorted(map(sorted, filter(None, expected)))
        assert all(name == min(members) for name, members in components.items())


def test_a_text_without_a_group_follows_its_repetition():
    kept = checked(corpus_of(("a", 0, None), ("A", 0, "ann"), ("b", 1, None)), drop_duplicates=True)
    assert [row.group for row in kept.rows] == ["ann", None]


def test_a_checked_grouped_corpus_divides_without_tearing_a_group_or_a_text():
    random_ = random.Random(1)
    rows = [(f"w {random_.randrange(400)}", 0, f"g{random_.randrange(300)}") for _ in range(420)]
    rows = [(text, int(text[-1] in "13579"), group) for text, _, group in rows]
    corpus = checked(corpus_of(*rows), drop_duplicates=True)
    parts = list(split(corpus, {"a": 0.5, "b": 0.5}).values())
    sides = [{row.key for row in part.rows} for part in parts]
    assert not sides[0] & sides[1]
    original = {row.key: {other[2] for other in rows if Row(0, other[0], 0).key == row.key} for row in corpus.rows}
    groups = [set.union(*(original[key] for key in side)) for side in sides]
    assert not groups[0] & groups[1], "no group of the file is on both sides, dropped repetitions included"


def grouped(prefix: str, group: str, count: int = 6) -> Corpus:
    return corpus_of(*((f"{prefix} {index}", index % 2, f"{group}{index // 2}") for index in range(count)), name=prefix)


def test_a_group_on_two_sides_is_a_leak_though_no_text_is():
    train, test = grouped("train", "author"), grouped("test", "author", 2)
    with pytest.raises(CorpusError, match=r"test shares 1 groups with train \(rows 1, 2 are of them\)"):
        refuse_leakage(train, [test])
    refuse_leakage(train, [grouped("test", "writer")])


def test_two_given_files_may_not_share_a_group_either():
    with pytest.raises(CorpusError, match="b shares 3 groups with a"):
        refuse_leakage(Corpus("train", ()), [grouped("a", "g"), grouped("b", "g")])


def test_a_joined_group_still_leaks_under_its_old_name():
    rows = [*(("x", 0, group) for group in ("ann", "bob")), ("y", 1, "bob"), ("z", 1, "cid")]
    train = checked(corpus_of(*rows, name="train"), drop_duplicates=True)
    test = corpus_of(("new", 0, "bob"), ("newer", 1, "eve"), name="test")
    with pytest.raises(CorpusError, match="test shares 1 groups with train"):
        refuse_leakage(train, [test])
    assert without(train, [test]).texts == ["z"]
    with pytest.raises(CorpusError, match=r"train shares 1 groups with test \(rows 1, 3 are of them\)"):
        refuse_leakage(test, [train])


def test_dropping_leaks_takes_the_rows_of_leaking_groups_too(make_corpus):
    rows = tuple(replace(row, group=f"a{row.number // 3}") for row in make_corpus(300).rows)
    data = Corpus("data", rows)
    test = Corpus("test", tuple(replace(row, group="a7") for row in make_corpus(8, seed=11).rows))
    with pytest.raises(CorpusError, match="groups"):
        arrange(data, test=test)
    parts = arrange(data, test=test, drop_leaks=True)
    assert parts.dropped >= 3
    assert "a7" not in parts.train.groups | parts.calibration.groups


def test_files_combined_into_one_part_may_not_share_a_text():
    first, second = corpus_of(("a", 0), ("b", 1), name="one"), corpus_of(("c", 0), (" B", 0), name="two")
    with pytest.raises(CorpusError, match="two: row 2 is also in another file of test"):
        combine("test", [first, second])


def test_combined_files_keep_their_reports_and_joined_groups():
    first = checked(corpus_of(("a", 0, "x"), ("A", 0, "y"), ("b", 1, "x"), name="one"), drop_duplicates=True)
    second = checked(corpus_of(("c", 0), ("d", 1), name="two"))
    both = combine("test", [first, second])
    assert both.texts == ["a", "b", "c", "d"]
    assert [report.name for report in both.reports] == ["one", "two"]
    assert both.groups == {"x", "y"}


def test_the_parts_of_a_run_carry_the_report_of_every_file(make_corpus):
    data = checked(make_corpus(200, name="data"))
    test = checked(Corpus("fresh", tuple(Row(at, f"fresh {at}", at % 2) for at in range(1, 9))))
    parts = arrange(data, out_of_domain={"fresh": test})
    assert [(report.name, report.texts) for report in parts.reports] == [("data", 200), ("fresh", 8)]


def test_a_renamed_corpus_reports_under_its_new_name(make_corpus):
    assert checked(make_corpus(20)).renamed("tweets").reports[0].name == "tweets"
