"""Pairs are compared within themselves, ties and rewritings counted fairly; what is no pair is refused."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import CorpusError
from probes.measure.baseline import BASELINES, LENGTH, NAME, PAIRS, measure_baselines
from probes.measure.intervals import wilson
from probes.measure.minimal_pairs import pair_metrics
from probes.texts.corpus import Corpus, Row
from probes.training.recipe import arrange


def pairs_of(*groups: tuple[str, int]) -> Corpus:
    """One row per (group, label), texts made up."""
    return Corpus("pairs", tuple(Row(at, f"text {at}", label, group) for at, (group, label) in enumerate(groups, 1)))


def test_accuracy_by_hand():
    pairs = pairs_of(("a", 0), ("a", 1), ("b", 1), ("b", 0), ("c", 0), ("c", 1), ("d", 1), ("d", 0))
    found = pair_metrics(np.array([0.0, 1.0, 5.0, 3.0, 2.0, 1.0, 7.0, 7.0]), pairs)  # right, right, wrong, tied
    assert (found.n, found.accuracy) == (4, 2.5 / 4)
    assert found.interval == wilson(2.5, 4)


def test_several_rewritings_of_one_text_count_as_one_pair():
    pairs = pairs_of(("a", 1), ("a", 0), ("a", 0), ("a", 0), ("b", 1), ("b", 0))
    found = pair_metrics(np.array([2.0, 1.0, 3.0, 1.5, 1.0, 0.0]), pairs)
    assert found.n == 2
    assert found.accuracy == pytest.approx((2 / 3 + 1) / 2)


def test_the_scale_of_the_scores_does_not_matter():
    random = np.random.default_rng(0)
    pairs = pairs_of(*((f"{at // 2}", at % 2) for at in range(200)))
    scores = random.standard_normal(200)
    assert pair_metrics(scores, pairs) == pair_metrics(np.exp(3 * scores) - 7, pairs)
    assert pair_metrics(-scores, pairs).accuracy == pytest.approx(1 - pair_metrics(scores, pairs).accuracy)


def test_what_is_no_pair_is_refused():
    with pytest.raises(CorpusError, match="row 3: the pair has texts of label 1 only"):
        pair_metrics(np.zeros(3), pairs_of(("a", 0), ("a", 1), ("b", 1)))
    with pytest.raises(CorpusError, match="row 1: belongs to no pair"):
        pair_metrics(np.zeros(1), Corpus("pairs", (Row(1, "text", 1),)))
    with pytest.raises(CorpusError, match="holds no pairs"):
        pair_metrics(np.zeros(0), Corpus("pairs", ()))


def paired(corpus: Corpus, name: str = "twins") -> Corpus:
    """Texts of `corpus` two by two, one of each label."""
    sides = [[row for row in corpus.rows if row.label == label] for label in (0, 1)]
    rows = [Row(row.number, row.text, row.label, f"{name} {at}") for side in sides for at, row in enumerate(side)]
    return Corpus(name, tuple(rows))


def test_baselines_read_the_same_pairs(make_corpus):
    train, pairs = make_corpus(200), paired(make_corpus(40, seed=9))
    found = measure_baselines(train, {"test": make_corpus(40, seed=8)}, pairs={"twins": pairs})
    assert found.keys() == BASELINES.keys() == {NAME, LENGTH}
    assert found[NAME][f"{PAIRS}twins"] == 1.0  # the last word tells
    assert found[LENGTH].keys() == {"test", f"{PAIRS}twins"}


def test_length_is_read_where_length_is_all_there_is():
    rows = [Row(at, "a " * (at % 50 + 1 + 50 * (at % 2)), at % 2) for at in range(200)]
    corpus = Corpus("lengths", tuple(rows))
    assert measure_baselines(corpus, {"test": corpus})[LENGTH]["test"] > 0.95


def test_pairs_may_not_stand_in_the_training_or_calibration_texts(make_corpus):
    data = make_corpus(300)
    pairs = {"twins": paired(Corpus("some", data.rows[:20]))}
    with pytest.raises(CorpusError, match="shares 20 texts"):
        arrange(data, pairs=pairs)
    parts = arrange(data, pairs=pairs, drop_leaks=True)
    assert parts.dropped == 20
    assert parts.pairs == pairs
    other = Corpus("calibration", data.rows[:40])
    with pytest.raises(CorpusError, match="shares 20 texts with calibration"):
        arrange(Corpus("rest", data.rows[40:]), calibration=other, pairs=pairs)


def test_pairs_may_also_be_an_out_of_domain_set(make_corpus):
    data = make_corpus(300)
    twins = paired(Corpus("some", data.rows[280:]))
    parts = arrange(Corpus("rest", data.rows[:280]), out_of_domain={"twins": twins}, pairs={"twins": twins})
    assert parts.named().keys() == {"train", "calibration", "test", "ood-twins", "pairs-twins"}
