"""Corpora for the probe tests, made here: neutral words, so that a failing test may print them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.texts.corpus import Corpus, Row

SEAS = ("sails", "tides", "masts", "keels", "docks", "reefs")
HILLS = ("ridge", "gorge", "slope", "cave", "stone", "edge")
FILLER = ("the", "old", "near", "under", "a", "long", "quiet", "and", "over", "small")


def _planted(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """`count` distinct texts, half about seas (label 1), half about hills; the last word, even letter, tells which."""
    random_ = random.Random(seed)
    records: dict[str, dict[str, Any]] = {}
    while len(records) < count:
        label = len(records) % 2
        words = random_.choices(FILLER, k=random_.randint(2, 9))
        text = " ".join([*words, random_.choice(SEAS if label else HILLS)])
        records.setdefault(text, {"text": text, "label": label})
    return list(records.values())


@pytest.fixture(scope="session")
def planted() -> Callable[..., list[dict[str, Any]]]:
    """planted(count, seed=0): records with a concept in them."""
    return _planted


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Corpus]:
    """make_corpus(count, seed=0, name="planted"): the same as a corpus, rows numbered from 1."""

    def make(count: int, *, seed: int = 0, name: str = "planted") -> Corpus:
        records = enumerate(_planted(count, seed=seed), start=1)
        return Corpus(name, tuple(Row(number, record["text"], record["label"]) for number, record in records))

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write records to a JSONL file in the test's folder."""

    def write(records: Sequence[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """(400, 12) float32 activations of two overlapping classes on very unequal scales, and labels (400,)."""
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    scales = np.logspace(-2, 3, 12)
    offsets = generator.standard_normal(12) * 0.5
    resid = (generator.standard_normal((400, 12)) + labels[:, None] * offsets + 3.0) * scales
    return resid.astype(np.float32), labels
