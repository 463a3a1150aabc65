"""A study: the same prompts, seeds and measures under every arm, kept sample by sample so that it can be resumed.

Each continuation is scored by itself, and its perplexity is that behind the plain prompt, whatever the arm gave the
model. An arm's samples are written batch by batch into a `.partial` file, which takes its name when the arm is done;
finished arms are read back, an interrupted one starts again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.arms import Arm
from eval.fluency import conditional_perplexity
from eval.metrics import repetition
from eval.sample import Sample
from steering import LanguageModel, Probe, Request, Sampling, generate
from steering.artefact import content_sha256
from steering.errors import InvalidRequest
from steering.identity import hash_json
from steering.requests import encode
from steering.scorers import Scorer

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
            "placebo": "asked about a shadow of the stream",
            "decoding": {"new_tokens": NEW_TOKENS, "top_p": TOP_P, "temperature": 1.0, "seed": self.seed},
        }


def run_arm(
    study: Study, arm: Arm, *, on_samples: Callable[[Sequence[Sample]], None] = lambda samples: None
) -> list[Sample]:
    """Write, score and measure every prompt under one arm, a batch at a time."""
    rows = list(enumerate(study.rows))
    done: list[Sample] = []
    for at in range(0, len(rows), BATCH):
        samples = _run_batch(study, arm, rows[at : at + BATCH])
        on_samples(samples)
        done += samples
    return done


def _run_batch(study: Study, arm: Arm, rows: Sequence[tuple[int, tuple[str, int, str]]]) -> list[Sample]:
    requests = [
        Request(
            arm.prompt(text, study.lm.tokenizer),
            Sampling(max_tokens=NEW_TOKENS, top_p=TOP_P, seed=study.seed + at),
            arm.plan(study.probe, seed=study.seed + at),
        )
        for at, (_, _, text) in rows
    ]
    done = generate(study.lm, requests)
    scores = study.scorer.score([completion.text for completion in done])
    pairs = [
        (encode(study.lm, text, max_tokens=NEW_TOKENS), completion.token_ids)
        for (_, (_, _, text)), completion in zip(rows, done, strict=True)
    ]
    perplexities = conditional_perplexity(study.lm, pairs, batch=BATCH)
    samples = []
    for (_, (kind, index, _)), completion, score, perplexity in zip(rows, done, scores, perplexities, strict=True):
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
                repetition=repetition(completion.token_ids),
            )
        )
    return samples


def run_study(
    study: Study,
    arms: Sequence[Arm],
    out: Path,
    *,
    on_arm: Callable[[str], None] = lambda name: None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> dict[str, list[Sample]]:
    """All arms, each kept in `out` when done and read back on the next call.

    `on_arm` is told the name of each arm as it begins, `on_rows` how many samples were added. Raises InvalidRequest
    when `out` holds a study of something else: its figures must not be mixed with these.
    """
    assert len({arm.file_name for arm in arms}) == len(arms), "two arms would be kept in one file"
    out.mkdir(parents=True, exist_ok=True)
    described = json.loads(json.dumps(study.describe()))
    marker = out / "study.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) != described:
        raise InvalidRequest(
            f"{out} holds the arms of another study (other model, probe, prompts, decoding or placebo); "
            "give another --out, or delete that folder to start anew",
            param="out",
        )
    marker.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    results = {}
    for arm in arms:
        on_arm(arm.name)
        path = out / arm.file_name
        if path.is_file():
            results[arm.name] = _read(path)
            on_rows(len(results[arm.name]))
        else:
            results[arm.name] = _run_and_keep(study, arm, path, on_rows)
    return results


def _run_and_keep(study: Study, arm: Arm, path: Path, on_rows: Callable[[int], None]) -> list[Sample]:
    aside = path.with_suffix(".partial")
    with aside.open("w", encoding="utf-8") as file:

        def keep(samples: Sequence[Sample]) -> None:
            file.writelines(json.dumps(sample.to_json()) + "\n" for sample in samples)
            file.flush()
            on_rows(len(samples))

        done = run_arm(study, arm, on_samples=keep)
    os.replace(aside, path)
    return done


def _read(path: Path) -> list[Sample]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Sample.from_json(row) for row in rows]
