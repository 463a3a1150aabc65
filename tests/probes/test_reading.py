"""Every file that must be refused is, by name and without quoting a text."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probes.errors import CorpusError
from probes.reading import Columns, read_corpus

SECRET = "zanzibar"  # stands for a text that must not reach a message


def records() -> list[dict[str, object]]:
    return [{"text": f"  {SECRET} {index}\n", "label": index % 2} for index in range(6)]


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(CorpusError) as caught:
        read_corpus(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert SECRET not in message
    return message


def test_all_formats_give_the_same_corpus_and_strip_nothing(write_jsonl, tmp_path):
    plain = write_jsonl(records())
    zipped = tmp_path / "data.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "data.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(records())
    columnar = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist(records()), columnar)

    corpora = [read_corpus(path) for path in (plain, zipped, table, columnar)]

    assert corpora[0].texts == [record["text"] for record in records()]
    assert corpora[0].counts == {"0": 3, "1": 3}
    assert {corpus.sha256 for corpus in corpora} == {corpora[0].sha256}
    assert {corpus.name for corpus in corpora} == {"data"}


def test_named_labels_are_mapped_through_the_positive_one(write_jsonl):
    path = write_jsonl([{"t": "uno", "lang": "es"}, {"t": "one", "lang": "en"}])
    corpus = read_corpus(path, columns=Columns(text="t", label="lang", positive="es"))
    assert corpus.labels.tolist() == [1, 0]


@pytest.mark.parametrize("label", [1, True, "1", 1.0, "true"])
def test_every_spelling_of_one_is_one(write_jsonl, label):
    path = write_jsonl([{"text": "a", "label": label}, {"text": "b", "label": 0}])
    assert read_corpus(path).labels.tolist() == [1, 0]


def test_a_missing_file_is_refused(tmp_path):
    assert "there is no file" in refusal(tmp_path / "absent.jsonl")


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "data.xlsx"
    path.touch()
    assert ".parquet" in refusal(path)


def test_a_missing_column_is_refused_with_the_columns_there_are(write_jsonl):
    message = refusal(write_jsonl([{"text": SECRET, "toxic": 1}]))
    assert "no column 'label'" in message
    assert "text, toxic" in message
    assert "--label-column" in message


def test_an_invalid_json_line_is_refused_by_number(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(records()[0]) + '\n{"text": "' + SECRET + "\n", encoding="utf-8")
    assert "line 2" in refusal(path)


def test_a_line_that_is_not_an_object_is_refused(write_jsonl):
    assert "line 1: a JSON list" in refusal(write_jsonl([[SECRET, 1]]))


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv"])
def test_invalid_utf8_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'{"text": "caf\xe9", "label": 1}\n')
    assert "not UTF-8" in refusal(path)


def test_half_a_surrogate_pair_is_refused(write_jsonl):
    path = write_jsonl([{"text": "\ud800", "label": 1}, {"text": "fine", "label": 0}])
    assert "row 1 is not valid Unicode" in refusal(path)


@pytest.mark.parametrize("text", ["", " \t\n", None])
def test_empty_and_whitespace_texts_are_refused_by_row(write_jsonl, text):
    message = refusal(write_jsonl([*records(), {"text": text, "label": 1}]))
    assert "row 7 is empty or only white space" in message


def test_a_text_that_is_no_string_is_refused(write_jsonl):
    assert "type int" in refusal(write_jsonl([{"text": 5, "label": 1}]))


def test_one_class_only_is_refused(write_jsonl):
    message = refusal(write_jsonl([record | {"label": 1} for record in records()]))
    assert "all 6 texts have label 1" in message


def test_a_file_without_rows_is_refused(write_jsonl):
    assert "no rows" in refusal(write_jsonl([]))


@pytest.mark.parametrize("label", [2, SECRET, -1, 0.5])
def test_a_label_that_is_not_binary_is_refused(write_jsonl, label):
    message = refusal(write_jsonl([{"text": "fine", "label": label}]))
    assert "row 1" in message
    assert "--positive" in message


def test_an_absent_label_is_refused(write_jsonl):
    assert "row 1" in refusal(write_jsonl([{"text": "fine", "label": None}]))


def test_three_named_labels_are_refused(write_jsonl):
    path = write_jsonl([{"text": value, "label": value} for value in ("en", "es", "fr")])
    assert "3 different values" in refusal(path, columns=Columns(positive="es"))


def test_a_positive_value_that_no_row_has_is_refused(write_jsonl):
    path = write_jsonl([{"text": value, "label": value} for value in ("en", "es")])
    assert "--positive" in refusal(path, columns=Columns(positive="spanish"))


def test_the_same_text_under_two_labels_is_refused(write_jsonl):
    path = write_jsonl([*records(), {"text": f"{SECRET.upper()}   0", "label": 1}])
    assert "row 7 is a repetition of an earlier text under the other label" in refusal(path)


def test_duplicates_are_refused_unless_asked_to_drop_them(write_jsonl):
    path = write_jsonl([*records(), *records()[:2]])
    assert "rows 7, 8 are a repetition" in refusal(path)
    assert len(read_corpus(path, drop_duplicates=True)) == 6


@pytest.mark.parametrize(("name", "content"), [("d.jsonl.gz", b"\x1f\x8b\x08junk"), ("d.parquet", b"PAR1junk")])
def test_damaged_containers_are_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert "again" in refusal(path)
