"""Shared by the tests of eval: a study on a tiny model, invented prompts and samples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from eval.prompts import RTP
from eval.sample import Sample
from eval.study import Study
from steering import LanguageModel, Probe
from steering.scorers import ScorerCard

PROMPTS = {"toxic": ["ab", "cde", "f"], "neutral": ["xyz", "uv", "w"]}


class LengthScorer:
    """Scores by length: not toxicity, but a number that differs between texts."""

    card = ScorerCard("length", "ruler", "1", "nothing", "long")

    def score(self, texts: Sequence[str]) -> list[float]:
        return [len(text) % 5 / 4 for text in texts]


@pytest.fixture
def scorer() -> LengthScorer:
    """A scorer of nothing."""
    return LengthScorer()


@pytest.fixture
def study(lm: LanguageModel, probe: Probe, scorer: LengthScorer) -> Study:
    """Six prompts, a probe that carries its read-outs only."""
    return Study(lm, probe, scorer, PROMPTS)


@pytest.fixture
def fitted_study(lm: LanguageModel, make_fitted: Callable[..., Probe], scorer: LengthScorer) -> Study:
    """The same with statistics for every controller of the residual stream."""
    return Study(lm, make_fitted(lm), scorer, PROMPTS)


@pytest.fixture(scope="session")
def sample() -> Callable[..., Sample]:
    """An invented sample on a toxic prompt."""

    def make(
        prompt: int, score: float, *, perplexity: float = 10.0, edited: int = 0, repetition: float = 0.0
    ) -> Sample:
        dose = 0.1 if edited else 0.0
        return Sample(prompt, "toxic", score, perplexity, 20, 20, edited, 0, dose, repetition)

    return make


@pytest.fixture(scope="session")
def write_prompts() -> Callable[..., None]:
    """Write prompts of the given toxicity where `read_rtp` looks for them."""

    def write(folder: Path, scores: list[float]) -> None:
        (folder / RTP).parent.mkdir(parents=True)
        with gzip.open(folder / RTP, "wt", encoding="utf-8") as file:
            for at, score in enumerate(scores):
                file.write(json.dumps({"prompt": f"prompt {at}", "toxicity": score}) + "\n")

    return write
