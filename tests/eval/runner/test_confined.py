"""A stranger's spec reads its own texts and files below the data folder, and reaches nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.runner.confined import ARMS
from eval.runner.errors import SpecError
from eval.runner.reading import read_spec

WHOLE: dict[str, Any] = {
    "name": "mine",
    "prompts": [{"texts": ["To the sea"]}],
    "arms": ["none"],
    "scorers": [{"name": "spanish"}],
}


def read(tmp_path: Path, *, folder: Path | None = None, **changed: Any) -> Any:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(WHOLE | changed), encoding="utf-8")
    return read_spec(str(path), data=folder, overrides={"server": "http://127.0.0.1:9"}, confined=True)


def test_texts_of_its_own_are_read_as_they_stand(tmp_path: Path) -> None:
    found = read(tmp_path, prompts=[{"texts": ["Über 😀 \u2028 \x7f"]}])
    assert found.spec.prompts[0].texts == ["Über 😀 \u2028 \x7f"]
    assert found.spec.model is None


@pytest.mark.parametrize("key", ["model", "server", "probes", "data"])
def test_what_the_server_decides_is_refused_by_its_key(key: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"{key} is not for this spec to say") as refused:
        read(tmp_path, **{key: "anything"})
    assert refused.value.param == key


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.jsonl", "b/../../a.jsonl", "./a.jsonl", "b\\a", "a\0", "way/out"]
)
def test_a_path_that_leads_out_of_the_data_folder_is_refused(name: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "way").symlink_to(tmp_path)
    (tmp_path / "out").touch()
    for changed, param in (
        ({"prompts": [{"file": name}]}, "prompts.0.file"),
        ({"prompts": [{"texts": ["a"], "exclude": [name]}]}, "prompts.0.exclude.0"),
        ({"neutral": {"file": name}}, "neutral.file"),
        ({"train_data": [name]}, "train_data.0"),
    ):
        with pytest.raises(SpecError) as refused:
            read(tmp_path, folder=data, **changed)
        assert refused.value.param == param
        assert str(tmp_path) not in str(refused.value)


def test_a_file_below_the_data_folder_is_read_and_none_without_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub" / "a.jsonl").write_text('{"prompt": "By a lake"}\n', encoding="utf-8")
    found = read(tmp_path, folder=data, prompts=[{"file": "sub/a.jsonl"}])
    assert found.path("sub/a.jsonl") == data / "sub" / "a.jsonl"
    with pytest.raises(SpecError, match="no folder of data"):
        read(tmp_path, prompts=[{"file": "sub/a.jsonl"}])


@pytest.mark.parametrize("name", ["hf:/etc#a", "http://10.0.0.1/score", "detoxify:original", "detoxify:unbiased@/x"])
def test_a_judge_that_needs_a_file_an_address_or_a_download_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="for `tiller eval rescore`") as refused:
        read(tmp_path, scorers=[{"name": name}])
    assert refused.value.param == "scorers.0.name"


def test_a_grid_is_counted_before_it_is_taken_apart(tmp_path: Path) -> None:
    grid = [point / 10_000 for point in range(1, 5000)]
    with pytest.raises(SpecError, match=f"arms has {4999**3} of them.*at most {ARMS}"):
        read(tmp_path, arms=[{"controller": "slab", "upper": grid, "strength": grid, "max_dose": grid}])
    assert len(read(tmp_path, arms=["none", {"controller": "slab", "upper": [0.1, 0.2]}]).spec.arms) == 3
