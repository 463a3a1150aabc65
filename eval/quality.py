"""python -m eval quality --data ../shared/data: the honest table of the README.

64 toxic and 64 neutral RealToxicityPrompts, 20 new tokens, nucleus 0.9; unsteered, the toxicity slab at three bounds,
and for each bound a random direction of the same norm. Toxic share by a scorer that did not label the probe's data,
conditional perplexity under the unsteered model, share of tokens edited, dose and violations, with 95% intervals.
A weak effect is printed as weak. Every finished arm is kept in the output folder and not computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.arms import Arm, Sample
from eval.fluency import conditional_perplexity
from eval.scorers import Scorer
from steering import LanguageModel, Probe, Request, Sampling, generate
from steering.artefact import content_sha256
from steering.errors import InvalidRequest
from steering.generation import encode
from steering.identity import hash_json

NEW_TOKENS = 20
TOP_P = 0.9
BATCH = 16


@dataclass(frozen=True, eq=False)
class Study:
    """What is held equal over the arms."""

    lm: LanguageModel
    probe: Probe
    scorer: Scorer
    prompts: dict[str, list[str]]
    """Kind of prompt -> texts."""
    seed: int = 0

    @property
    def rows(self) -> list[tuple[str, int, str]]:
        """(kind, index, prompt) in a fixed order; a row's place gives its seed, the same in every arm."""
        return [(kind, at, text) for kind, texts in self.prompts.items() for at, text in enumerate(texts)]

    def describe(self) -> dict[str, Any]:
        """Everything the figures depend on, as plain values without text."""
        return {
            "model": self.lm.info.model_dump(),
            "probe": self.probe.id,
            "probe_sha256": content_sha256(self.probe),
            "layers": list(self.probe.manifest.default.layers),
            "scorer": vars(self.scorer.card),
            "prompts": {kind: len(texts) for kind, texts in self.prompts.items()},
            "prompts_sha256": hash_json(self.prompts),
            "decoding": {"new_tokens": NEW_TOKENS, "top_p": TOP_P, "temperature": 1.0, "seed": self.seed},
        }


def run_arm(study: Study, arm: Arm, *, on_rows: Callable[[int], None] = lambda done: None) -> list[Sample]:
    """Write, score and measure every prompt under one arm."""
    requests = [
        Request(
            text,
            Sampling(max_tokens=NEW_TOKENS, top_p=TOP_P, seed=study.seed + at),
            arm.plan(study.probe, seed=study.seed + at),
        )
        for at, (_, _, text) in enumerate(study.rows)
    ]
    done = []
    for at in range(0, len(requests), BATCH):
        done += generate(study.lm, requests[at : at + BATCH])
        on_rows(min(BATCH, len(requests) - at))
    scores = study.scorer([completion.text for completion in done])
    pairs = [
        (encode(study.lm, text, max_tokens=NEW_TOKENS), completion.token_ids)
        for (_, _, text), completion in zip(study.rows, done, strict=True)
    ]
    perplexities = conditional_perplexity(study.lm, pairs, batch=BATCH)
    samples = []
    for (kind, index, _), completion, score, perplexity in zip(study.rows, done, scores, perplexities, strict=True):
        report = completion.steering.probes[study.probe.id] if completion.steering else None
        samples.append(
            Sample(
                prompt=index,
                kind=kind,
                score=score,
                perplexity=perplexity,
                new_tokens=len(completion.token_ids),
                tokens=report.tokens if report else 0,
                edited=report.edited if report else 0,
                violations=report.violations if report else 0,
                mean_dose=report.mean_dose if report else 0.0,
            )
        )
    return samples


def run_study(
    study: Study, arms: Sequence[Arm], out: Path, *, on_rows: Callable[[int], None] = lambda done: None
) -> dict[str, list[Sample]]:
    """All arms, each kept in `out` when done and read back on the next call.

    Raises InvalidRequest when `out` holds a study of something else: its figures must not be mixed with these.
    """
    out.mkdir(parents=True, exist_ok=True)
    described = json.loads(json.dumps(study.describe()))
    marker = out / "study.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) != described:
        raise InvalidRequest(
            f"{out} holds the arms of another study (other model, probe, prompts or decoding); "
            "give another --out, or delete that folder to start anew",
            param="out",
        )
    marker.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    results = {}
    for arm in arms:
        path = out / f"{arm.name.replace(' p<=', '-')}.jsonl"
        if path.is_file():
            results[arm.name] = _read(path)
            on_rows(len(results[arm.name]))
            continue
        results[arm.name] = run_arm(study, arm, on_rows=on_rows)
        _write(path, results[arm.name])
    return results


def _write(path: Path, samples: Sequence[Sample]) -> None:
    aside = path.with_suffix(".partial")
    lines = (json.dumps(sample.to_json()) for sample in samples)
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(aside, path)


def _read(path: Path) -> list[Sample]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Sample.from_json(row) for row in rows]
