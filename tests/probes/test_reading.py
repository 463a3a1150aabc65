"""Every file that must be refused is, by name and without quoting a text."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probes.errors import CorpusError
from probes.texts.labels import Columns
from probes.texts.reading import read_corpus, read_records

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


def test_truncated_gzip_is_refused(write_jsonl, tmp_path):
    whole = gzip.compress(write_jsonl(records() * 50).read_bytes())
    for cut in (len(whole) // 2, len(whole) - 4):
        path = tmp_path / "cut.jsonl.gz"
        path.write_bytes(whole[:cut])
        assert "fetch it again" in refusal(path)


def test_gzip_with_flipped_bytes_is_refused(write_jsonl, tmp_path):
    whole = bytearray(gzip.compress(write_jsonl(records() * 50).read_bytes()))
    whole[30:40] = bytes(10)
    path = tmp_path / "flipped.jsonl.gz"
    path.write_bytes(whole)
    refusal(path)


def test_arrow_files_of_both_kinds_give_the_same_corpus(write_jsonl, tmp_path):
    table = pa.Table.from_pylist(records())
    for name, new in (("s.arrow", pa.ipc.new_stream), ("f.arrow", pa.ipc.new_file)):
        with new(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        assert read_corpus(tmp_path / name).sha256 == read_corpus(write_jsonl(records())).sha256


@pytest.mark.parametrize("cut", [1, 8, 100, 400])
def test_an_arrow_stream_cut_anywhere_is_refused(tmp_path, cut):
    path = tmp_path / "s.arrow"
    table = pa.Table.from_pylist(records())
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    path.write_bytes(path.read_bytes()[:-cut])
    assert "again" in refusal(path)


@pytest.mark.parametrize("name", ["d.arrow", "d.parquet"])
@pytest.mark.parametrize("content", [b"", b"ARROW1junk", b"junk" * 50])
def test_unreadable_arrow_and_parquet_are_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert "again" in refusal(path)


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.parquet", "d.arrow", "d.jsonl.gz"])
def test_a_git_lfs_pointer_is_recognised_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    assert "git lfs pull" in refusal(path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path, ending, mark):
    lines = {
        "d.csv": ["text,label", '"one, with a ""comma""",1', "two,0"],
        "d.jsonl": [json.dumps({"text": 'one, with a "comma"', "label": 1}), json.dumps({"text": "two", "label": 0})],
    }
    for name, content in lines.items():
        path = tmp_path / name
        path.write_bytes(mark + ending.join(content).encode())
        corpus = read_corpus(path)
        assert corpus.texts == ['one, with a "comma"', "two"]
        assert corpus.labels.tolist() == [1, 0]


@pytest.mark.parametrize("content", ["", "text,label\n", "\n\n"])
def test_an_empty_csv_and_one_with_a_header_alone_have_no_rows(tmp_path, content):
    path = tmp_path / "d.csv"
    path.write_text(content, encoding="utf-8")
    assert "no rows" in refusal(path)


@pytest.mark.parametrize("row", [f"{SECRET}, and more,1", SECRET])
def test_a_csv_row_that_does_not_fit_its_header_is_refused_rather_than_cut(tmp_path, row):
    path = tmp_path / "d.csv"
    path.write_text(f"text,label\nfine,0\n{row}\n", encoding="utf-8")
    assert "row 2" in refusal(path)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(f"text,label,text\n{SECRET},1,{SECRET}\n", encoding="utf-8")
    assert "column text stands more than once" in refusal(path)
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "d.parquet")
    assert "more than once" in refusal(tmp_path / "d.parquet")


def test_a_csv_without_a_header_does_not_quote_its_first_text(tmp_path):
    path = tmp_path / "d.csv"
    text = f"a long text of many words with {SECRET} in it"
    path.write_text(f"{text},1\nanother,0\n", encoding="utf-8")
    assert "the columns are: (45 characters), 1" in refusal(path)


def test_nested_records_name_the_column_that_is_missing(write_jsonl):
    message = refusal(write_jsonl([{"data": {"text": SECRET}, "label": 1}]))
    assert "no column 'text'; the columns are: data, label" in message


@pytest.mark.parametrize("text", [[SECRET], {"a": SECRET}, 1.5, True])
def test_a_list_or_object_where_a_text_should_be_is_refused(write_jsonl, text):
    assert f"type {type(text).__name__}" in refusal(write_jsonl([{"text": text, "label": 1}]))


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5000, '{"text": 1'])
def test_json_that_breaks_the_parser_is_refused_by_line(tmp_path, line):
    path = tmp_path / "d.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    assert "line 1: not valid JSON" in refusal(path)


def test_a_folder_named_as_a_file_is_no_file(tmp_path):
    (tmp_path / "d.jsonl").mkdir()
    assert "holds no data files" in refusal(tmp_path / "d.jsonl")


def test_reading_holds_no_more_than_a_batch_of_rows(tmp_path):
    """Ten times the rows, the same peak: the reader's own memory does not grow with the file."""
    peaks = []
    for count in (2_000, 20_000):
        rows = [{"text": f"row {index} " + "x" * 200, "label": index % 2} for index in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet", row_group_size=1000)
        (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        del rows
        for name in ("d.parquet", "d.jsonl"):
            tracemalloc.start()
            assert sum(1 for _ in read_records(tmp_path / name)) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    small, large = peaks[:2], peaks[2:]
    assert all(after < 1.5 * before + 100_000 for before, after in zip(small, large, strict=True))


def test_a_csv_field_that_is_too_long_names_the_way_out(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(f"text,label\n{'a' * 140_000},1\n")
    with pytest.raises(CorpusError, match=r"no field of more than 131,072 characters \(JSON Lines has no such limit"):
        list(read_records(path))
