"""What the probes read at every layer while an arm writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.runner.folder import RunFolder
from eval.runner.prepare import Prepared

Made = Callable[..., Prepared]
Do = Callable[[Prepared, Path], dict[str, Any]]


def rows(folder: Path, arm: str) -> list[dict[str, Any]]:
    return [row for row in RunFolder(folder).layers() if row["arm"] == arm]


def test_after_the_step_the_mean_is_within_the_bound_and_before_it_is_not(
    make_ready: Made, do_run: Do, tmp_path: Path
) -> None:
    do_run(make_ready(arms=["none", {"controller": "slab", "upper": 0.2, "layers": "all"}]), tmp_path / "out")
    held = rows(tmp_path / "out", "slab p<=0.2 layers 0-3") or rows(tmp_path / "out", "slab p<=0.2")
    assert held
    assert all(row["after"] <= 0.2 + 1e-6 for row in held)
    assert any(row["before"] > 0.2 for row in held)


def test_a_layer_that_is_not_steered_reads_the_same_before_and_after(
    make_ready: Made, do_run: Do, tmp_path: Path
) -> None:
    do_run(
        make_ready(arms=["none", {"controller": "slab", "upper": 0.2, "layers": [1], "name": "one"}]), tmp_path / "out"
    )
    assert all(row["before"] == row["after"] for row in rows(tmp_path / "out", "none"))
    moved = {row["layer"] for row in rows(tmp_path / "out", "one") if row["before"] != row["after"]}
    assert moved == {1}
    assert {row["tokens"] for row in rows(tmp_path / "out", "one")} != {0}
    assert not math.isnan(rows(tmp_path / "out", "one")[0]["before"])


def test_the_manifests_of_the_probes_are_kept_with_the_run(make_ready: Made, do_run: Do, tmp_path: Path) -> None:
    prepared = make_ready()
    do_run(prepared, tmp_path / "out")
    kept = RunFolder(tmp_path / "out").document("probes.json")
    assert list(kept) == list(prepared.probes)
    assert kept[next(iter(kept))]["positive_is"]
    assert RunFolder(tmp_path / "out").document("nothing.json") == {}


def test_a_run_that_steers_nothing_has_no_layers(make_ready: Made, do_run: Do, tmp_path: Path) -> None:
    do_run(make_ready(arms=["none"]), tmp_path / "out")
    assert RunFolder(tmp_path / "out").layers() == []
