"""A finished run on disk, made up: texts of ours, and an effect that was planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eval.report.gathering import read_run
from eval.report.model import RunReport
from eval.runner.folder import PROMPTS, RunFolder
from eval.runner.parts import write_table
from steering import LanguageModel, Probe
from steering.scorers import ScorerCard

CARD = ScorerCard("judge", "ruler", "1", "nothing", "toxic")
MARKUP = "<script>alert('boat')</script> & <b>sails</b>"
RULES = {"slab": "slab", "random as slab": "random"}
ARMS = {"none": None, "prompt": None, "slab": None, "random as slab": "slab"}

Planted = Callable[..., RunFolder]


def steering(probe: str, *, promised: bool, violations: int) -> str:
    """The report of one continuation."""
    report = {
        "max_pre": 0.9, "max_post": 0.1, "min_pre": 0.0, "min_post": 0.0, "tokens": 8, "edited": 4, "capped": 0,
        "infeasible": 0, "violations": violations, "mean_dose": 0.1, "max_dose": 0.2, "promised": promised,
    }  # fmt: skip
    return json.dumps({"probes": {probe: report}})


def held(probe: str, controller: str) -> dict[str, Any]:
    """A constraint as in `run.json`."""
    return {
        "probe": probe, "controller": controller, "shadow": "slab", "lower": None, "upper": 0.1, "space": "probability",
        "metric": "euclidean", "layers": [1, 2, 3],
    }  # fmt: skip


@pytest.fixture
def planted(tmp_path: Path, lm: LanguageModel, make_probe: Callable[..., Probe]) -> Planted:
    """Write a run in which `slab` relieves three in four hits and its placebo moves texts both ways."""

    def make(
        name: str = "run",
        *,
        prompts: int = 80,
        relieved: float = 0.75,
        violations: int = 0,
        loops: bool = False,
        manifests: bool = True,
        model: str = "tiny",
        seed: int = 0,
        decoding: dict[str, Any] | None = None,
        card: ScorerCard = CARD,
        samples: int = 1,
    ) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        probe = make_probe(lm)
        rng = np.random.default_rng(seed)
        rows: list[dict[str, Any]] = []
        for prompt in range(prompts):
            for sample in range(samples):
                bad = rng.uniform() < 0.4
                hits = {
                    "none": bad,
                    "prompt": bad and rng.uniform() < 0.5,
                    "slab": bad and rng.uniform() >= relieved,
                    "random as slab": rng.uniform() < 0.4,
                }
                for arm, hit in hits.items():
                    spoiled = loops and arm == "slab"
                    report = None
                    if arm not in ("none", "prompt"):
                        mine = violations if (arm, prompt, sample) == ("slab", 0, 0) else 0
                        report = steering(probe.id, promised=arm == "slab", violations=mine)
                    rows.append(
                        {
                            "arm": arm, "prompt_id": f"p{prompt:03}", "prompt_set": "boats",
                            "stratum": "even" if prompt % 2 == 0 else "odd", "sample": sample, "seed": 7,
                            "continuation": f"{MARKUP} number {prompt} {sample}",
                            "token_ids": [9] * 30 if spoiled else [prompt, 1, 2, 3, 4, 5],
                            "finish_reason": "length", "prompt_tokens": 5, "steering": report, "seconds": 0.5,
                            "logprob_sum": -18.0, "logprob_tokens": 6, f"score.{card.name}": 0.9 if hit else 0.1,
                        }
                    )  # fmt: skip
        rows.sort(key=lambda row: list(ARMS).index(row["arm"]))
        arms = [
            {
                "name": arm,
                "instruction": "Be kind." if arm == "prompt" else None,
                "constraints": []
                if arm in ("none", "prompt")
                else [held(probe.id, "slab" if arm == "slab" else "random")],
                "placebo_of": of,
            }
            for arm, of in ARMS.items()
        ]
        identity = {
            "format": 1, "spec": "planted", "writer": "in process", "version": "0", "samples": samples,
            "model": {"id": model, "revision": "r", "dtype": "float32", "num_hidden_layers": 4},
            "probes": {probe.id: "0" * 64},
            "prompts": {"boats": prompts}, "prompts_sha256": "1" * 64, "scorers": {card.name: asdict(card)},
            "decoding": decoding or {"max_tokens": 6, "temperature": 1.0, "seed": 0}, "arms": arms,
            "thresholds": {card.name: 0.5},
        }  # fmt: skip
        texts = pa.table(
            {
                "prompt_set": ["boats"] * prompts,
                "prompt_id": [f"p{prompt:03}" for prompt in range(prompts)],
                "stratum": ["even" if prompt % 2 == 0 else "odd" for prompt in range(prompts)],
                "line": list(range(prompts)),
                "text": [f"Boat {prompt} of {model}" for prompt in range(prompts)],
            },
            schema=PROMPTS,
        )
        (folder.path / "measures" / card.name).mkdir(parents=True)
        folder.write("run.json", identity)
        folder.write("provenance.json", {"sessions": [SESSION], "files": {}})
        folder.write(f"measures/{card.name}/card.json", asdict(card))
        if manifests:
            folder.write("probes.json", {probe.id: probe.manifest.model_dump(mode="json")})
        write_table(folder.path / "prompts.parquet", texts)
        write_table(folder.path / "samples.parquet", pa.Table.from_pylist(rows))
        readings = [
            {
                "arm": arm,
                "probe": probe.id,
                "layer": layer,
                "before": 0.4,
                "after": 0.1 if arm == "slab" else 0.4,
                "tokens": 9,
            }
            for arm in ("none", "slab", "random as slab")
            for layer in range(4)
        ]
        write_table(folder.path / "layers.parquet", pa.Table.from_pylist(readings))
        return folder

    return make


@pytest.fixture
def planted_report(planted: Planted) -> Callable[..., RunReport]:
    """`planted`, read."""
    return lambda **changed: read_run(planted(**changed))


SESSION: dict[str, Any] = {
    "command": "tiller eval run planted --out run",
    "started": "2026-01-01T00:00:00+00:00",
    "ended": None,
    "hardware": {"cores": 2, "machine": "x86_64", "device": "cpu", "torch_threads": 1, "dtype": "float32"},
    "versions": {"tiller-lm": "0", "python": "3.11"},
}
