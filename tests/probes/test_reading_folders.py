"""Dataset folders, as `datasets` saves them and as they stand on the Hub, are read whole or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probes.errors import CorpusError, ScreenError
from probes.lookahead.prompts import read_prompts
from probes.screen.texts import excluded_keys, read_texts
from probes.texts.corpus import text_key
from probes.texts.labels import Columns
from probes.texts.reading import read_corpus, read_records
from probes.texts.sources import find_source

NAMES = ["en", "es"]
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
}
ROWS = [{"text": f"word {index}", "label": index % 2} for index in range(10)]


def save(folder: Path, rows: Sequence[dict[str, Any]] = ROWS, *, shards: int = 2, **state: object) -> Path:
    """What `Dataset.save_to_disk` leaves, written by pyarrow alone."""
    folder.mkdir(parents=True)
    files = [f"data-{at:05}-of-{shards:05}.arrow" for at in range(shards)]
    table = pa.Table.from_pylist(list(rows))
    for at, name in enumerate(files):
        start, end = at * len(rows) // shards, (at + 1) * len(rows) // shards
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table.slice(start, end - start), max_chunksize=3)
    listed = {"_data_files": [{"filename": name} for name in files], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}), encoding="utf-8")
    return folder


def save_dict(folder: Path, *splits: str) -> Path:
    for split in splits:
        save(folder / split)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}), encoding="utf-8")
    return folder


def jsonl(path: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        read_corpus(Path(path), **options)
    return str(caught.value)


def test_a_saved_dataset_reads_as_the_same_rows_in_a_file(tmp_path):
    folder, file = save(tmp_path / "saved", shards=3), jsonl(tmp_path / "rows.jsonl")
    saved = read_corpus(folder)
    assert saved.sha256 == read_corpus(file).sha256
    assert saved.name == "saved"
    assert [row.number for row in saved.rows] == list(range(1, 11)), "numbers run on over the shards"


def test_classes_kept_as_numbers_answer_to_their_names(tmp_path):
    folder = save(tmp_path / "saved")
    flipped = read_corpus(folder, columns=Columns(positive="en"))
    assert flipped.labels.tolist() == [1 - row["label"] for row in ROWS]
    assert "its classes are en, es" in refusal(folder, columns=Columns(positive="fr"))
    assert "not scores" in refusal(folder, columns=Columns(threshold=0.5))


def test_class_names_also_come_from_the_schema_of_a_parquet_file(tmp_path):
    note = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata(note)
    pq.write_table(table, tmp_path / "train.parquet")
    corpus = read_corpus(tmp_path / "train.parquet", columns=Columns(positive="es"))
    assert corpus.labels.tolist() == [row["label"] for row in ROWS]


@pytest.mark.parametrize("note", [b"no json", b"[]", b'{"info": 3}', b'{"info": {"features": [1]}}'])
def test_a_foreign_note_in_the_schema_is_no_obstacle(tmp_path, note):
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata({b"huggingface": note})
    pq.write_table(table, tmp_path / "d.parquet")
    assert len(read_corpus(tmp_path / "d.parquet")) == 10


def test_an_unlabelled_row_of_a_class_column_is_refused(tmp_path):
    folder = save(tmp_path / "saved", [*ROWS, {"text": "unlabelled", "label": -1}])
    assert "row 11: 'label' is not the number of one of its 2 classes" in refusal(
        folder, columns=Columns(positive="es")
    )


def test_of_several_splits_one_must_be_named(tmp_path):
    folder = save_dict(tmp_path / "dict", "train", "test")
    assert len(read_corpus(Path(f"{folder}:test"))) == 10
    assert read_corpus(Path(f"{folder}:test")).name == "dict:test"
    assert f"its splits are: train, test; write for example {folder}:train" in refusal(folder)
    assert "no split 'dev'; its splits are: train, test" in refusal(f"{folder}:dev")


def test_a_single_split_needs_no_name(tmp_path):
    assert len(read_corpus(save_dict(tmp_path / "dict", "only"))) == 10


def test_a_saved_dataset_knows_the_split_it_was(tmp_path):
    folder = save(tmp_path / "saved", _split="test")
    assert len(read_corpus(Path(f"{folder}:test"))) == 10
    assert "one saved split (test)" in refusal(f"{folder}:train")


def test_a_missing_shard_of_a_saved_dataset_is_refused(tmp_path):
    folder = save(tmp_path / "saved")
    (folder / "data-00001-of-00002.arrow").unlink()
    assert "lacks 1 of its 2 files" in refusal(folder)


@pytest.mark.parametrize("listed", [None, [], [{"filename": "../secret.arrow"}], [{}], ["x"], 5])
def test_a_state_that_lists_no_plain_file_names_is_refused(tmp_path, listed):
    assert "does not list" in refusal(save(tmp_path / "saved", _data_files=listed))


def test_splits_that_lead_out_of_the_folder_are_refused(tmp_path):
    folder = save_dict(tmp_path / "dict", "train")
    (folder / "dataset_dict.json").write_text('{"splits": ["../dict/train"]}', encoding="utf-8")
    assert "does not list the splits" in refusal(folder)


def test_a_selection_kept_as_an_index_is_refused_rather_than_read_whole(tmp_path):
    assert "flatten_indices" in refusal(save(tmp_path / "saved", _indices_data_files=[{"filename": "i.arrow"}]))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_unreadable_metadata_is_refused(tmp_path, name, content):
    folder = save(tmp_path / "saved")
    (folder / name).write_text(content, encoding="utf-8")
    assert f"{name} cannot be read" in refusal(folder)


@pytest.mark.parametrize("place", ["", "data"])
@pytest.mark.parametrize("spelling", ["train-00000-of-00001", "train", "my-corpus_train", "training.part"])
def test_a_hub_folder_tells_splits_by_file_name(tmp_path, place, spelling):
    jsonl(tmp_path / "hub" / place / f"{spelling}.jsonl")
    jsonl(tmp_path / "hub" / place / "dev.jsonl", ROWS[:4])
    (tmp_path / "hub" / "README.md").touch()
    assert len(read_corpus(tmp_path / "hub:train")) == 10
    assert len(read_corpus(tmp_path / "hub:validation")) == len(read_corpus(tmp_path / "hub:dev")) == 4


def test_a_hub_folder_tells_splits_by_folder_name(tmp_path):
    jsonl(tmp_path / "hub" / "train" / "b.jsonl", ROWS[5:])
    jsonl(tmp_path / "hub" / "train" / "a.jsonl", ROWS[:5])
    jsonl(tmp_path / "hub" / "test" / "a.jsonl", ROWS[:2])
    assert read_corpus(tmp_path / "hub:train").texts == [row["text"] for row in ROWS]
    assert "its splits are: test, train" in refusal(tmp_path / "hub")


def test_shards_are_read_in_order_and_a_split_of_any_name_is_known_by_them(tmp_path):
    for at in range(3):
        pq.write_table(
            pa.Table.from_pylist(ROWS[at * 3 : at * 3 + 3]), jsonl(tmp_path / f"train_sft-{at:05}-of-00003.parquet")
        )
    assert read_corpus(Path(f"{tmp_path}:train_sft")).texts == [row["text"] for row in ROWS[:9]]
    (tmp_path / "train_sft-00001-of-00003.parquet").unlink()
    assert "2 of the 3 shards" in refusal(f"{tmp_path}:train_sft")


def test_files_that_name_no_split_are_one_table(tmp_path):
    jsonl(tmp_path / "a.jsonl", ROWS[:5])
    jsonl(tmp_path / "b.jsonl", ROWS[5:])
    jsonl(tmp_path / ".hidden.jsonl")
    assert read_corpus(tmp_path).texts == [row["text"] for row in ROWS]


def test_a_file_that_names_no_split_beside_files_that_do_is_refused(tmp_path):
    jsonl(tmp_path / "train.jsonl")
    jsonl(tmp_path / "more.jsonl")
    assert "cannot tell the split of more.jsonl" in refusal(tmp_path)


def test_a_mix_of_formats_in_one_split_is_refused(tmp_path):
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.csv").write_text("text,label\none,1\n", encoding="utf-8")
    assert "mixes csv and jsonl files" in refusal(tmp_path)


def test_a_folder_without_data_says_where_data_would_stand(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert "holds no data files" in refusal(tmp_path)
    jsonl(tmp_path / "english" / "train.jsonl")
    assert "data stand in its folders english" in refusal(tmp_path)


def test_a_colon_in_a_file_name_is_no_split(tmp_path):
    assert len(read_corpus(jsonl(tmp_path / "a:b.jsonl"))) == 10
    assert "there is no file" in refusal(tmp_path / "absent:train")


def test_a_damaged_shard_is_named(tmp_path):
    folder = save(tmp_path / "saved")
    shard = folder / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert "data-00001-of-00002.arrow is cut short" in refusal(folder)


def test_what_the_datasets_library_saves_is_read_back(tmp_path):
    datasets = pytest.importorskip(
        "datasets", reason="the datasets library is not installed; its layout is tested above"
    )
    datasets.disable_progress_bars()
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)})
    whole = datasets.Dataset.from_list(ROWS, features=features)
    whole.save_to_disk(str(tmp_path / "one"), num_shards=2)
    datasets.DatasetDict({"train": whole, "test": whole.select([4, 1, 7])}).save_to_disk(str(tmp_path / "dict"))
    (tmp_path / "hub").mkdir()
    whole.to_parquet(str(tmp_path / "hub" / "train-00000-of-00001.parquet"))
    for path in (tmp_path / "one", tmp_path / "dict:train", tmp_path / "hub:train"):
        assert [record for _, record in read_records(path)] == ROWS
        assert find_source(path).classes == {"label": tuple(NAMES)}
    assert [record for _, record in read_records(tmp_path / "dict:test")] == [ROWS[4], ROWS[1], ROWS[7]]


def test_prompts_are_read_from_one_split_of_a_folder(tmp_path):
    for split, words in {"train": "one two", "test": "three four"}.items():
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"prompt": words}) + "\n")
    named = Path(f"{tmp_path}:test")
    assert read_texts(named, "prompt", flag="--prompts") == ["three four"]
    assert excluded_keys([named]) == {text_key("three four")}
    assert read_prompts([named]).texts == ("three four",)
    with pytest.raises(ScreenError, match=r"--prompts: .* has no split 'other'"):
        read_texts(Path(f"{tmp_path}:other"), "prompt", flag="--prompts")
    with pytest.raises(ScreenError, match="--exclude: there is no file"):
        excluded_keys([tmp_path / "absent.jsonl"])
