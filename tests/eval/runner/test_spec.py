"""A spec says what it means or is refused: unknown keys with the nearest known one, values with what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.runner.errors import SpecError
from eval.runner.expansion import expand_arms
from eval.runner.reading import ReadSpec, read_spec, ready_specs

Read = Callable[..., ReadSpec]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sample": 3}, "spec.yaml: 'sample' is no key here; did you mean 'samples'?"),
        ({"decoding": {"topp": 0.9}}, "spec.yaml: decoding: 'topp' is no key here; did you mean 'top_p'?"),
        ({"decoding": {"max_tokens": 0}}, "spec.yaml: decoding.max_tokens is 0; expected at least 1"),
        ({"decoding": {"top_p": "high"}}, "decoding.top_p is 'high'; expected a number"),
        ({"samples": True}, "samples is true; expected a whole number"),
        ({"scorers": []}, "scorers is []; expected at least 1 of them"),
        ({"scorers": [{"nam": "vader"}]}, "scorers.0: 'nam' is no key here; did you mean 'name'?"),
        ({"prompts": None}, "spec.yaml: prompts is missing; it has no default"),
        ({"prompts": [{"name": "x"}]}, "prompts.0: expected either a file or texts, and not both"),
        ({"arms": None}, "arms is null; expected a list"),
        ({"arms": ["salb"]}, "arm 1 (salb): 'salb' is no controller; did you mean 'slab'?"),
        ({"arms": ["none", {"controller": "slab", "uper": 1}]}, "arm 2 (slab): 'uper' is no key of an arm; did you"),
        ({"arms": [{"controller": "slab", "upper": [0.1, "low"]}]}, "arm 1 (slab): upper is 'low'; expected a number"),
        ({"arms": [{"controller": "slab", "layers": 3}]}, "arm 1 (slab): layers is 3; expected 'default', 'all', a"),
        ({"arms": [{"controller": "slab", "layers": {"form": 0.2}}]}, "'form' is no key here; did you mean 'from'?"),
        ({"arms": ["random"]}, "arm 1 (random): placebos are added to every steered arm by themselves"),
        ({"arms": ["prompt"]}, "arm 1 (prompt): a prompt arm has an instruction"),
        ({"arms": [{"controller": "none", "upper": 0.1}]}, "arm 1 (none): it steers nothing, so it has no upper"),
        ({"arms": [{"name": "a", "controller": "slab", "upper": [0.1, 0.2]}]}, "one name for 2 arms"),
        ({"arms": [{"constraints": [{"probe": "toxicity", "uper": 1}]}]}, "constraint 1: 'uper' is no key here"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_was_expected(read: Read, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        read(**changed)
    assert message in str(refused.value)


def test_a_key_that_stands_twice_is_refused_instead_of_the_last_one_winning(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("samples: 1\nscorers: []\nsamples: 2\n", encoding="utf-8")
    with pytest.raises(SpecError, match="the key 'samples' stands twice"):
        read_spec(str(path))


@pytest.mark.parametrize("text", ["- a\n- b\n", "arms: [\n", "just words\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=r"odd\.yaml is no"):
        read_spec(str(path))


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path, read: Read) -> None:
    path = read().folder / "spec.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("- 0.4", "- 1e-3"), encoding="utf-8")
    assert [arm.constraints[0].upper for arm in read_spec(str(path)).spec.arms[1:]] == [0.2, 1e-3]


def test_a_spec_that_is_nowhere_names_the_nearest_ready_one() -> None:
    with pytest.raises(
        SpecError, match="there is no spec file qick, and no ready spec of that name; did you mean 'quick'"
    ):
        read_spec("qick")


def test_grids_of_one_arm_multiply_and_lists_that_are_values_do_not() -> None:
    arms = expand_arms(
        [
            {"controller": "slab", "upper": [0.1, 0.2], "metric": ["euclidean", "whitened"], "layers": [1, 2]},
            {"controller": "slab", "upper": 0.1, "layers": [[1], "all", {"from": 0.25}]},
            {"controller": "setpoint", "gains": [[1, 0, 0], [0.5, 0.1, 0]]},
            {"controller": "prompt", "instruction": ["write Spanish", "Be kind."]},
        ]
    )
    assert len(arms) == 4 + 3 + 2 + 2
    assert [(arm.constraints[0].upper, arm.constraints[0].metric) for arm in arms[:4]] == [
        (0.1, "euclidean"), (0.1, "whitened"), (0.2, "euclidean"), (0.2, "whitened"),
    ]  # fmt: skip
    assert all(arm.constraints[0].layers == [1, 2] for arm in arms[:4])
    assert [arm.constraints[0].gains for arm in arms[7:9]] == [[1, 0, 0], [0.5, 0.1, 0]]


def test_paths_start_at_the_data_folder_or_with_a_dot_at_the_spec(read: Read, tmp_path: Path) -> None:
    found = read(data="texts")
    assert found.path("a.jsonl") == tmp_path / "texts" / "a.jsonl"
    assert found.path("./a.jsonl") == tmp_path / "a.jsonl"
    assert found.path("/b/a.jsonl") == Path("/b/a.jsonl")
    assert read_spec(str(tmp_path / "spec.yaml"), data=Path("/other")).path("a.jsonl") == Path("/other/a.jsonl")


@pytest.mark.parametrize("name", ready_specs())
def test_every_ready_spec_is_one_and_says_what_it_does(name: str) -> None:
    found = read_spec(name)
    assert found.ready
    assert found.spec.name == name
    assert found.spec.about.endswith(".")
