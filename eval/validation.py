"""What is a scorer's number worth? How it agrees with a reference on texts that both have judged.

    Spearman   correlation of the ranks of s and r, ties by their mean rank
    AUROC      P(s of a text with r >= 1/2  >  s of one with r < 1/2), ties one half

Both have 95% intervals by the bootstrap over prompts: continuations of one prompt are alike and are drawn together.
Texts that either has not judged are left out and counted. Only figures leave this module, never a text.

A reference is itself a classifier or a few people, so neither figure can say that a scorer is right; it says whether
two judges of different origin rank the same texts alike.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from eval.statistics import Estimate
from steering.errors import InvalidRequest
from steering.scorers import Scorer

Array = NDArray[np.float64]

POSITIVE = 0.5
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Reference:
    """Texts with a judgement in [0, 1]."""

    name: str
    file: str
    """Its name; the folder is nobody's business"""
    sha256: str
    judge: str
    """Who judged"""
    higher_is: str
    """What 1 means"""
    texts: tuple[str, ...]
    values: Array
    groups: tuple[Hashable, ...]
    """The prompt of each text"""


@dataclass(frozen=True)
class Validation:
    """How one scorer agrees with one reference."""

    scorer: str
    revision: str
    scorer_higher_is: str
    reference: str
    reference_judge: str
    reference_higher_is: str
    file: str
    sha256: str
    n: int
    """Texts that both have judged"""
    unscored: int
    """Texts that either has not"""
    prompts: int
    positives: int
    """Texts the reference puts at 1/2 or above"""
    spearman: Estimate
    auroc: Estimate
    date: str


def validate(scorer: Scorer, reference: Reference, *, resamples: int = RESAMPLES, seed: int = 0) -> Validation:
    """Score the texts of `reference` and compare. Deterministic but for its date."""
    scores = np.asarray(scorer.score(reference.texts), dtype=np.float64)
    known = ~(np.isnan(scores) | np.isnan(reference.values))
    ours, theirs = scores[known], reference.values[known]
    groups = np.unique([hash_of(group) for group in reference.groups], return_inverse=True)[1][known]
    positive = theirs >= POSITIVE
    drawn = list(_resamples(groups, resamples, seed))
    return Validation(
        scorer=scorer.card.name,
        revision=scorer.card.revision,
        scorer_higher_is=scorer.card.higher_is,
        reference=reference.name,
        reference_judge=reference.judge,
        reference_higher_is=reference.higher_is,
        file=reference.file,
        sha256=reference.sha256,
        n=len(ours),
        unscored=int((~known).sum()),
        prompts=len(np.unique(groups)),
        positives=int(positive.sum()),
        spearman=_estimate(lambda rows: spearman(ours[rows], theirs[rows]), len(ours), drawn),
        auroc=_estimate(lambda rows: auroc(ours[rows], positive[rows]), len(ours), drawn),
        date=datetime.now(UTC).date().isoformat(),
    )


def spearman(one: Array, other: Array) -> float:
    """Rank correlation of (n,) and (n,); NaN where either is constant or has fewer than two values."""
    if len(one) < 2:
        return math.nan
    a, b = rankdata(one), rankdata(other)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def auroc(scores: Array, positive: NDArray[np.bool_]) -> float:
    """Mann-Whitney U / (n1 n0); NaN where a class is absent."""
    ups = int(positive.sum())
    downs = len(positive) - ups
    if not ups or not downs:
        return math.nan
    return float(rankdata(scores)[positive].sum() - ups * (ups + 1) / 2) / (ups * downs)


def read_scored_generations(path: Path) -> Reference:
    """JSON lines {"prompt", "generations": [{"text", "toxicity"}, ...]}: continuations of one prompt, scored alone."""
    rows = _read(path, ("prompt", "generations"))
    return _reference(
        path,
        [(found["text"], found["toxicity"], row["prompt"]) for row in rows for found in row["generations"]],
        name="rtp-gpt2",
        judge="Perspective (RealToxicityPrompts, GPT-2 continuations alone)",
        higher_is="toxic",
    )


def read_rated_generations(path: Path) -> Reference:
    """JSON lines {"prompt", "text", "p_toxic"}: prompt and continuation together, steered and unsteered."""
    rows = _read(path, ("prompt", "text", "p_toxic"))
    return _reference(
        path,
        [(row["text"], row["p_toxic"], row["prompt"]) for row in rows],
        name="steered-rated",
        judge="s-nlp/roberta_toxicity_classifier (LiSeCo's texts, steered and not, with their prompts)",
        higher_is="toxic",
    )


def read_naturalness(path: Path) -> Reference:
    """The same file by its human ratings of naturalness, 1 to 5, as (rating - 1) / 4; unrated texts are left out."""
    rows = [row for row in _read(path, ("prompt", "text", "naturalness")) if row["naturalness"] is not None]
    return _reference(
        path,
        [(row["text"], (row["naturalness"] - 1) / 4, row["prompt"]) for row in rows],
        name="steered-natural",
        judge="one rater (LiSeCo's texts, steered and not, with their prompts)",
        higher_is="natural",
    )


def read_labelled(path: Path, *, name: str, judge: str, higher_is: str) -> Reference:
    """JSON lines {"text", "label": 0 or 1}."""
    rows = _read(path, ("text", "label"))
    texts = [(row["text"], row["label"], at) for at, row in enumerate(rows)]
    return _reference(path, texts, name=name, judge=judge, higher_is=higher_is)


def read_translations(path: Path, *, one: str = "es", other: str = "en") -> Reference:
    """JSON lines of one sentence in two languages; `one` is 1."""
    rows = _read(path, (one, other))
    texts = [(row[side], float(side == one), at) for at, row in enumerate(rows) for side in (one, other)]
    return _reference(path, texts, name=f"{one}-or-{other}", judge="the translators", higher_is=one)


def hash_of(group: Hashable) -> str:
    """A prompt by its hash, so that groups sort whatever they are."""
    return hashlib.sha256(repr(group).encode()).hexdigest()


def _reference(
    path: Path, rows: Sequence[tuple[str, float, Hashable]], *, name: str, judge: str, higher_is: str
) -> Reference:
    if not rows:
        raise InvalidRequest(f"{path.name} holds no text that was judged", param="data")
    texts, values, groups = zip(*rows, strict=True)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Reference(name, path.name, digest, judge, higher_is, texts, np.asarray(values, dtype=np.float64), groups)


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of .jsonl or .jsonl.gz. Raises InvalidRequest that names the file and what is amiss."""
    if not path.is_file():
        raise InvalidRequest(
            f"there is no {path.name} in {path.parent}; give the folder of the data sets", param="data"
        )
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    missing = next((column for row in rows for column in columns if column not in row), None)
    if missing is not None:
        raise InvalidRequest(f"{path.name} has a row without '{missing}'; expected {', '.join(columns)}", param="data")
    return rows


def _resamples(groups: NDArray[np.intp], resamples: int, seed: int) -> Iterable[NDArray[np.intp]]:
    """Rows of as many groups, drawn with replacement."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    rng = np.random.default_rng(seed)
    for _ in range(resamples if len(groups) else 0):
        yield np.concatenate([members[at] for at in rng.integers(0, len(members), len(members))])


def _estimate(statistic: Callable[[NDArray[np.intp]], float], n: int, drawn: Sequence[NDArray[np.intp]]) -> Estimate:
    value = statistic(np.arange(n))
    if math.isnan(value):
        return Estimate(value, math.nan, math.nan)
    low, high = np.nanpercentile([statistic(rows) for rows in drawn], [2.5, 97.5])
    return Estimate(value, float(low), float(high))
