"""lm-evaluation-harness against our server and against its own `hf` model, for `benchmarks/harness.py`.

The harness's `local-completions` speaks to the server as it is. Its log-likelihood requests take no options, so a
steered run needs `SteeredCompletions`, which adds one field to each request and demands the proof of it from each
reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness_pairs import GRAMMAR, MOOD
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from torch import Tensor

from steering import Probe, steer


class SteeredCompletions(LocalCompletionsAPI):  # type: ignore[misc]
    """`local-completions` whose every request carries a `steering` field."""

    def __init__(self, *, steering: Mapping[str, Any], **settings: Any) -> None:  # theirs takes many
        super().__init__(**settings)
        self._steering = dict(steering)

    def _create_payload(
        self,
        messages: Any,
        generate: bool = False,
        gen_kwargs: dict[str, Any] | None = None,
        seed: int = 1234,
        eos: str | None = None,
    ) -> dict[str, Any]:
        payload: dict[str, Any] = super()._create_payload(messages, generate, gen_kwargs, seed, eos)
        return payload | {"steering": self._steering}

    @staticmethod
    def parse_logprobs(outputs: Any, tokens: Any = None, ctxlens: Any = None) -> list[tuple[float, bool]]:
        """As theirs; raises RuntimeError for a choice that was not steered or broke its bound."""
        for reply in outputs if isinstance(outputs, list) else [outputs]:
            for choice in reply["choices"]:
                done = choice["steering"]
                if not (done and done["applied"]) or any(probe["violations"] for probe in done["probes"].values()):
                    raise RuntimeError(f"choice {choice['index']} was not steered as asked: {done}")
        parsed: list[tuple[float, bool]] = LocalCompletionsAPI.parse_logprobs(outputs, tokens, ctxlens)
        return parsed


@dataclass(frozen=True)
class Outcome:
    """What one arm says of one task."""

    accuracy: float
    """As the harness computes it."""
    loglikelihoods: list[float]
    """Of every choice of every document, in order."""


def write_tasks(folder: Path, *, pairs: int) -> dict[str, dict[str, Any]]:
    """The first `pairs` of both tasks as JSONL in `folder`, and their configurations for the harness."""
    grammar = [{"good": good, "bad": bad} for good, bad in GRAMMAR[:pairs]]
    mood = [{"begin": begin, "good": good, "bad": bad} for begin, good, bad in MOOD[:pairs]]
    tasks = {}
    for name, rows, text in (("grammar", grammar, ""), ("mood", mood, "{{begin}}")):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tasks[name] = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": text,
            "doc_to_choice": "{{[good, bad]}}",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    return tasks


def run(model: Any, tasks: Mapping[str, dict[str, Any]]) -> dict[str, Outcome]:
    """Every task through the harness on `model`."""
    made = [ConfigurableTask(config=dict(config)) for config in tasks.values()]
    results = simple_evaluate(model=model, tasks=made, bootstrap_iters=0)
    assert results is not None, "there is one process"
    return {
        name: Outcome(
            accuracy=float(results["results"][name]["acc,none"]),
            loglikelihoods=[float(said[0]) for sample in _in_order(results["samples"][name]) for said in sample],
        )
        for name in tasks
    }


def over_http(url: str, *, folder: Path, name: str, steering: Mapping[str, Any] | None) -> LocalCompletionsAPI:
    """The harness's client of our server: eight prompts a request, four requests at a time."""
    settings: dict[str, Any] = {
        "model": name,
        "tokenizer": str(folder),
        "tokenizer_backend": "huggingface",
        "base_url": f"{url}/v1/completions",
        "batch_size": 8,
        "num_concurrent": 4,
    }
    return LocalCompletionsAPI(**settings) if steering is None else SteeredCompletions(steering=steering, **settings)


def in_process(folder: Path) -> HFLM:
    """The harness's own model of the same checkpoint, float32 on the CPU, one text at a time."""
    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)


@contextmanager
def by_hand(model: HFLM, probe: Probe, *, low: float) -> Iterator[None]:
    """x + max(0, low - (w . x + b)) w / (w . w) at the probe's default layers and every token, while it is open."""

    def rule(layer: int) -> Any:
        fitted = probe.at(layer)
        slope, shift = fitted.calibration
        bound = (torch.logit(torch.tensor(low, dtype=torch.float64)).item() - shift) / slope
        weight, bias = fitted.weight, fitted.bias

        def project(resid: Tensor) -> Tensor:
            gap = (bound - (resid @ weight + bias)).clamp_min(0.0)
            return resid + gap.unsqueeze(-1) * weight / weight.dot(weight)

        return project

    with steer(model.model, {layer: rule(layer) for layer in probe.manifest.default.layers}):
        yield


def _in_order(samples: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [sample["filtered_resps"] for sample in sorted(samples, key=lambda sample: int(sample["doc_id"]))]
