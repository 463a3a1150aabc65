"""Scores with a threshold, several concepts of one file, and what a label may not be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from probes.errors import CorpusError
from probes.texts.concepts import MOST_CLASSES, read_concepts
from probes.texts.labels import Columns
from probes.texts.reading import read_corpus
from probes.texts.splits import split


def scored(*scores: object) -> list[dict[str, object]]:
    return [{"text": f"text {index}", "toxicity": score} for index, score in enumerate(scores)]


SCORE = Columns(label="toxicity", threshold=0.5)


def test_a_score_is_one_from_the_threshold_on(write_jsonl):
    below = math.nextafter(0.5, 0)
    path = write_jsonl(scored(0, below, 0.5, 0.9, 1, True, False, "0.7", "0.1", -3))
    assert read_corpus(path, columns=SCORE).labels.tolist() == [0, 0, 1, 1, 1, 1, 0, 1, 0, 0]


def test_thresholding_agrees_with_numpy_on_random_scores(write_jsonl):
    scores = np.random.default_rng(0).normal(size=300)
    path = write_jsonl(scored(*scores.tolist()))
    labels = read_corpus(path, columns=Columns(label="toxicity", threshold=-0.3)).labels
    assert np.array_equal(labels, (scores >= -0.3).astype(np.int64))


@pytest.mark.parametrize("score", [math.nan, math.inf, "nan", "high", [0.5], {"a": 1}, 10**400])
def test_a_score_that_is_no_finite_number_is_refused_by_row(write_jsonl, score):
    path = write_jsonl(scored(0.1, score, 0.9))
    with pytest.raises(CorpusError, match="row 2: 'toxicity' is no finite number"):
        read_corpus(path, columns=SCORE)


@pytest.mark.parametrize("score", [None, ""])
def test_an_absent_score_is_refused_by_row(write_jsonl, score):
    with pytest.raises(CorpusError, match="row 3: 'toxicity' is empty"):
        read_corpus(write_jsonl(scored(0.1, 0.2, score)), columns=SCORE)


def test_a_threshold_that_all_scores_reach_is_refused(write_jsonl):
    with pytest.raises(CorpusError, match=r"all 2 texts have label 1.*--threshold"):
        read_corpus(write_jsonl(scored(0.7, 0.8)), columns=SCORE)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_that_divides_nothing_is_refused(threshold):
    with pytest.raises(CorpusError, match="divides nothing"):
        Columns(threshold=threshold)


def test_a_threshold_and_a_positive_name_are_refused_together():
    with pytest.raises(CorpusError, match="one of these options"):
        Columns(threshold=0.5, positive="es")


def test_a_column_of_texts_as_labels_is_refused_without_remembering_them_all(write_jsonl):
    path = write_jsonl([{"text": f"a {index}", "label": f"b {index}"} for index in range(1500)])
    with pytest.raises(CorpusError, match="more than 1000 different values"):
        read_corpus(path, columns=Columns(positive="es"))


MOODS = ("anger", "fear", "joy")


def moody(count: int) -> list[dict[str, object]]:
    return [{"text": f"text {index}", "label": MOODS[index * index % 7 % 3]} for index in range(count)]


def test_each_class_becomes_a_concept_against_all_others(write_jsonl):
    records = moody(30)
    concepts = read_concepts(write_jsonl(records))
    assert list(concepts) == ["anger", "fear", "joy"]
    for name, corpus in concepts.items():
        assert corpus.labels.tolist() == [int(record["label"] == name) for record in records]
        assert corpus.texts == [record["text"] for record in records]
    assert (sum(corpus.labels for corpus in concepts.values()) == 1).all(), "each text shows one class"


def test_each_column_becomes_a_concept_of_its_own(write_jsonl):
    records = [{"text": f"text {i}", "insult": i % 2, "threat": (i // 2) % 2, "rude": 1 - i % 2} for i in range(12)]
    concepts = read_concepts(write_jsonl(records), label_columns=["threat", "insult", "rude"])
    assert list(concepts) == ["threat", "insult", "rude"]
    for name, corpus in concepts.items():
        assert corpus.labels.tolist() == [record[name] for record in records]
        assert corpus.texts == [record["text"] for record in records]


def test_score_columns_become_concepts_by_the_threshold(write_jsonl):
    scores = np.random.default_rng(1).random((40, 2))
    records = [{"text": f"text {i}", "a": row[0], "b": row[1]} for i, row in enumerate(scores.tolist())]
    concepts = read_concepts(write_jsonl(records), columns=Columns(threshold=0.4), label_columns=["a", "b"])
    found = np.stack([corpus.labels for corpus in concepts.values()], axis=1)
    assert np.array_equal(found, scores >= 0.4)


def test_concepts_of_one_file_divide_alike(write_jsonl):
    concepts = read_concepts(write_jsonl(moody(300)))
    parts = [split(corpus, {"train": 0.7, "test": 0.3}) for corpus in concepts.values()]
    for side in ("train", "test"):
        assert all(part[side].texts == parts[0][side].texts for part in parts)


def test_a_text_under_two_classes_is_label_noise_for_all_concepts(write_jsonl):
    path = write_jsonl([*moody(20), {"text": "TEXT 0", "label": "fear"}])
    with pytest.raises(CorpusError, match="row 21 is a repetition of an earlier text under the other label"):
        read_concepts(path)
    concepts = read_concepts(path, max_label_noise=0.1)
    assert all("text 0" not in corpus.texts and len(corpus) == 19 for corpus in concepts.values())
    assert all(corpus.reports[0].contradictory == 1 for corpus in concepts.values())


def test_a_text_with_two_sets_of_labels_is_label_noise_though_one_column_agrees(write_jsonl):
    records = [{"text": f"text {i}", "a": i % 2, "b": i // 2 % 2} for i in range(8)]
    path = write_jsonl([*records, {"text": "text 0", "a": 0, "b": 1}])
    with pytest.raises(CorpusError, match="row 9"):
        read_concepts(path, label_columns=["a", "b"], drop_duplicates=True)


def test_repeated_texts_leave_all_concepts_together(write_jsonl):
    path = write_jsonl([*moody(20), moody(20)[3]])
    with pytest.raises(CorpusError, match="--drop-duplicates"):
        read_concepts(path)
    assert {len(corpus) for corpus in read_concepts(path, drop_duplicates=True).values()} == {20}


def test_a_concept_no_text_shows_is_refused_by_name(write_jsonl):
    path = write_jsonl([{"text": f"text {i}", "a": i % 2, "threat": 0} for i in range(8)])
    with pytest.raises(CorpusError, match="data, threat: all 8 texts have label 0"):
        read_concepts(path, label_columns=["a", "threat"])


def test_two_classes_are_one_concept(write_jsonl):
    path = write_jsonl([{"text": value, "label": value} for value in ("en", "es")])
    with pytest.raises(CorpusError, match=r"2 classes, expected three or more; .* --positive"):
        read_concepts(path)


def test_a_column_with_too_many_classes_is_refused(write_jsonl):
    path = write_jsonl([{"text": f"a {i}", "label": f"b {i}"} for i in range(MOST_CLASSES + 1)])
    with pytest.raises(CorpusError, match=f"more than {MOST_CLASSES} classes"):
        read_concepts(path)


def test_options_of_a_single_concept_are_refused(write_jsonl):
    path = write_jsonl(moody(6))
    for columns in (Columns(positive="joy"), Columns(threshold=0.5)):
        with pytest.raises(CorpusError, match="leave them off"):
            read_concepts(path, columns=columns)
    for names in (["a"], ["a", "a"]):
        with pytest.raises(CorpusError, match="two or more different ones"):
            read_concepts(path, label_columns=names)


def test_a_missing_concept_column_and_an_absent_class_are_refused_by_row(write_jsonl):
    with pytest.raises(CorpusError, match="row 1: no column 'b'; the columns are: text, a"):
        read_concepts(write_jsonl([{"text": "x", "a": 1}]), label_columns=["a", "b"])
    with pytest.raises(CorpusError, match="row 2: 'label' is empty"):
        read_concepts(write_jsonl([{"text": "x", "label": "joy"}, {"text": "y", "label": None}]))
    with pytest.raises(CorpusError, match="no rows"):
        read_concepts(write_jsonl([]))


def test_the_emotion_scenarios_become_six_concepts():
    path = Path(__file__).parents[3] / "shared" / "data" / "contrast" / "emotion_scenarios.jsonl"
    if not path.is_file():
        pytest.skip("the data sets are not beside this checkout (../shared/data)")
    with path.open(encoding="utf-8") as file:
        labels = [json.loads(line)["label"] for line in file]
    concepts = read_concepts(path, drop_duplicates=True, max_label_noise=0.05)
    assert list(concepts) == sorted(set(labels))
    report = next(iter(concepts.values())).reports[0]
    assert report.texts == len(labels)
    assert all(corpus.reports[0].imbalanced for corpus in concepts.values())
