"""Prompts are read as they stand, sampled fairly, and never among what a probe was trained on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.runner.errors import SpecError
from eval.runner.overlap import refuse_overlap
from eval.runner.prepare import Prepared, prepare
from eval.runner.prompts import Prompt, read_prompts
from eval.runner.reading import ReadSpec
from steering import LanguageModel

Read = Callable[..., ReadSpec]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


ROWS = [{"id": f"r{at}", "prompt": f"Sentence number {at}", "kind": "ab"[at % 2], "heat": at / 10} for at in range(10)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_gives_its_rows_in_order_with_ids_and_lines(read: Read, tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROWS)
    found = read_prompts(read(prompts=[{"file": name}]))[0]
    assert found == [Prompt(f"r{at}", "rows", f"Sentence number {at}", None, at + 1) for at in range(10)]


def test_strata_come_from_a_column_or_from_a_score_and_its_threshold(read: Read, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    by_kind = read_prompts(read(prompts=[{"file": "rows.jsonl", "stratum": "kind"}]))[0]
    by_heat = read_prompts(read(prompts=[{"file": "rows.jsonl", "score": "heat", "threshold": 0.5}]))[0]
    assert [prompt.stratum for prompt in by_kind] == ["a", "b"] * 5
    assert [prompt.stratum for prompt in by_heat] == ["heat < 0.5"] * 5 + ["heat >= 0.5"] * 5


def test_n_takes_the_same_prompts_whatever_the_order_of_the_file_and_others_for_another_seed(
    read: Read, tmp_path: Path
) -> None:
    def chosen(rows: list[dict[str, Any]], **more: Any) -> list[str]:
        write(tmp_path / "rows.jsonl", rows)
        return [prompt.id for prompt in read_prompts(read(prompts=[{"file": "rows.jsonl", **more}]))[0]]

    taken = chosen(ROWS, n=4)
    assert len(taken) == 4
    assert set(chosen(ROWS[::-1], n=4)) == set(taken)
    assert set(taken) <= set(chosen(ROWS, n=5))
    assert len({tuple(chosen(ROWS, n=4, seed=seed)) for seed in range(6)}) > 1


def test_n_per_stratum_and_where(read: Read, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    source = {"file": "rows.jsonl", "stratum": "kind", "n_per_stratum": 2}
    assert sorted(str(prompt.stratum) for prompt in read_prompts(read(prompts=[source]))[0]) == ["a", "a", "b", "b"]
    only = read_prompts(read(prompts=[{"file": "rows.jsonl", "where": {"kind": "b"}}]))[0]
    assert [prompt.id for prompt in only] == ["r1", "r3", "r5", "r7", "r9"]


def test_a_text_that_comes_twice_is_taken_once(read: Read, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*ROWS, ROWS[3] | {"id": "again"}])
    assert [prompt.id for prompt in read_prompts(read(prompts=[{"file": "rows.jsonl"}]))[0]] == [
        row["id"] for row in ROWS
    ]


@pytest.mark.parametrize(
    ("rows", "source", "message"),
    [
        ([], {}, "the prompt set 'rows' is empty (rows.jsonl); expected at least one text"),
        ([{"prompt": " "}], {}, "rows, line 1: 'prompt' is empty or no string"),
        ([{"text": "a"}], {}, "rows.jsonl, line 1: no column 'prompt'; the columns are: text"),
        (
            ROWS,
            {"where": {"kind": "z"}},
            "the prompt set 'rows' is empty (rows.jsonl); expected at least one text left by `where`",
        ),
        (ROWS, {"n": 11}, "rows holds 10 different prompts, and n is 11"),
        (ROWS, {"stratum": "kind", "n_per_stratum": 6}, "rows holds 5 different prompts of stratum 'a', and n is 6"),
        (ROWS, {"score": "kind"}, "line 1: 'kind' is no number"),
        ([{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}], {}, "rows: lines 1 and 2 have the same id"),
    ],
)
def test_what_cannot_be_prompts_is_refused_by_line(
    read: Read, tmp_path: Path, rows: list[dict[str, Any]], source: dict[str, Any], message: str
) -> None:
    write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(SpecError) as refused:
        read_prompts(read(prompts=[{"file": "rows.jsonl", **source}]))[0]
    assert message in str(refused.value)


def test_absent_broken_and_truncated_files_are_refused(read: Read, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no file .*absent.jsonl; paths are relative to `data`"):
        read_prompts(read(prompts=[{"file": "absent.jsonl"}]))[0]
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\nnot json\n', encoding="utf-8")
    with pytest.raises(SpecError, match=r"broken\.jsonl, line 2 is no JSON"):
        read_prompts(read(prompts=[{"file": "broken.jsonl"}]))[0]
    whole = write(tmp_path / "cut.jsonl.gz", ROWS).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=r"cut\.jsonl\.gz cannot be read"):
        read_prompts(read(prompts=[{"file": "cut.jsonl.gz"}]))[0]
    with pytest.raises(SpecError, match="two prompt sets are called 'x'"):
        read_prompts(read(prompts=[{"name": "x", "texts": ["a"]}, {"name": "x", "texts": ["b"]}]))[0]


def test_a_prompt_that_was_training_data_is_refused_by_line_and_never_by_its_words(
    make_ready: Callable[..., Prepared], read: Read, lm: LanguageModel, tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": "Something else"}, {"text": "in  THE hills"}])
    with pytest.raises(SpecError) as refused:
        make_ready(train_data=(train,))
    assert "1 prompts stand in train.jsonl" in str(refused.value)
    assert "Lines: places 2" in str(refused.value)
    assert "hills" not in str(refused.value)
    with pytest.raises(SpecError, match="Lines: places 2"):
        prepare(read(train_data=["train.jsonl"]), load=lambda name: lm)


def test_the_beginning_of_a_training_text_counts_when_it_is_long_enough(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": "the long road over the hill goes home", "tags": ["by a lake"]}])

    def prompt(text: str) -> list[Prompt]:
        return [Prompt("1", "set", text, None, 1)]

    assert refuse_overlap(prompt("The long road"), [train]) == {"train.jsonl": 2}
    for text in ("The long road over the hill", "By a  Lake"):
        with pytest.raises(SpecError, match="1 prompts stand in"):
            refuse_overlap(prompt(text), [train])


def test_files_compared_are_recorded_and_left_out_prompts_are_counted(
    make_ready: Callable[..., Prepared], tmp_path: Path
) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": "In the hills"}])
    found = make_ready(
        prompts=[{"texts": ["In the hills", "At home"], "exclude": ["./train.jsonl"]}], train_data=(train,)
    )
    assert [prompt.text for prompt in found.prompts] == ["At home"]
    assert found.compared == {"train.jsonl": 1}
    assert found.left_out[0] == "1 prompts of 'prompts-1' stand in ./train.jsonl and were left out"
