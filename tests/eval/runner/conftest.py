"""Shared by the tests of the runner: a spec on disk for a tiny model whose probes are saved beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.runner.folder import RunFolder
from eval.runner.listener import Silent
from eval.runner.prepare import Prepared, prepare
from eval.runner.reading import ReadSpec, read_spec
from eval.runner.run import run
from steering import LanguageModel, Probe, save_probe

SPEC: dict[str, Any] = {
    "name": "tiny",
    "model": "tiny",
    "probes": "./probes",
    "probe": "toxicity",
    "prompts": [{"name": "places", "texts": ["To the sea", "In the hills", "By a lake", "Over there", "At home"]}],
    "decoding": {"max_tokens": 6, "top_p": 0.9, "seed": 3},
    "samples": 2,
    "arms": ["none", {"controller": "slab", "upper": [0.2, 0.4]}],
    "scorers": [{"name": "spanish"}],
    "chunk": 4,
    "batch": 3,
}

WriteSpec = Callable[..., Path]


@pytest.fixture
def write_spec(tmp_path: Path, lm: LanguageModel, make_fitted: Callable[..., Probe]) -> WriteSpec:
    """Write SPEC with other top-level values (None removes one) and return its path; its probe carries everything."""
    save_probe(make_fitted(lm), tmp_path / "probes")

    def write(**changed: Any) -> Path:
        spec = {key: value for key, value in (copy.deepcopy(SPEC) | changed).items() if value is not None}
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_ready(write_spec: WriteSpec, lm: LanguageModel) -> Callable[..., Prepared]:
    """`write_spec`, read and prepared."""

    def make(*, train_data: tuple[Path, ...] = (), **changed: Any) -> Prepared:
        return prepare(read_spec(str(write_spec(**changed))), load=lambda name: lm, train_data=train_data, patience=1.0)

    return make


@pytest.fixture
def read(write_spec: WriteSpec) -> Callable[..., ReadSpec]:
    """`write_spec`, read."""
    return lambda **changed: read_spec(str(write_spec(**changed)))


@pytest.fixture(scope="session")
def rows_of() -> Callable[[Path], list[dict[str, Any]]]:
    """The rows of a finished run without how long they took, and None for NaN, which is not itself."""

    def rows(folder: Path) -> list[dict[str, Any]]:
        found = RunFolder(folder).table().drop_columns(["seconds"]).to_pylist()
        return [{name: None if value != value else value for name, value in row.items()} for row in found]

    return rows


@pytest.fixture(scope="session")
def do_run() -> Callable[[Prepared, Path], dict[str, Any]]:
    """Run to the end, in silence."""
    return lambda prepared, out: run(prepared, RunFolder(out), listener=Silent())
