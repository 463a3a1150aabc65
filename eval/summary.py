"""All figures of one arm, from its records: scores beside fluency, since neither means anything without the other.

Give the records of one stratum to have that stratum's figures. Intervals are over prompts: Wilson's for a rate where
each prompt has one sample, else the bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.degenerate import TextFigures
from eval.metrics import (
    Steered,
    compression_ratio,
    distinct,
    end_rate,
    expected_maximum,
    hit_probability,
    hits,
    mean_length,
    mean_score,
    pooled_perplexity,
    steered,
    unique_share,
)
from eval.metrics.scores import THRESHOLD, Side
from eval.record import PromptKey, Record, by_prompt, scores_of
from eval.statistics import Estimate, bootstrap, median, wilson


@dataclass(frozen=True)
class ScoreSummary:
    """What one scorer says of an arm."""

    mean: Estimate
    rate: Estimate
    expected_maximum: float
    """Over the samples of a prompt; with one sample, the mean"""
    hit_probability: float
    """Share of prompts with a hit; with one sample, the rate"""
    unscored: int


@dataclass(frozen=True)
class ArmSummary:
    """What one arm wrote."""

    arm: str
    prompts: int
    samples: int
    """Continuations in all"""
    scores: Mapping[str, ScoreSummary]
    perplexity: Estimate
    """Median over continuations; bootstrap over prompts"""
    perplexity_quartiles: tuple[float, float]
    pooled_perplexity: float
    repetition: float
    """Mean seq-rep-4"""
    distinct: tuple[float, float, float]
    """distinct-1, -2, -3"""
    compression: float
    unique: float
    length: float
    """Mean tokens"""
    ended: float
    """Share that the model ended itself"""
    steered: Mapping[str, Steered]
    """By probe id; empty for an arm that steers nothing"""
    tokens_per_second: float


def summarise_arm(
    records: Sequence[Record],
    scorers: Sequence[str],
    *,
    thresholds: Mapping[str, float] | None = None,
    sides: Mapping[str, Side] | None = None,
) -> ArmSummary:
    """Figures of the records of one arm; `thresholds` and `sides` say what counts as a hit, by scorer.

    Raises InvalidRequest for a scorer that did not score them, ValueError for prompts of different numbers of samples.
    """
    tokens = [record.token_ids for record in records]
    texts = [record.continuation for record in records]
    perplexities = [record.perplexity for record in records]
    seconds = math.fsum(record.seconds for record in records)
    read = [record for record in records if not math.isnan(record.logprob_sum)]
    return ArmSummary(
        arm=records[0].arm if records else "",
        prompts=len({record.key for record in records}),
        samples=len(records),
        scores={
            name: summarise_scores(
                by_prompt(records, scores_of(records, name)),
                threshold=(thresholds or {}).get(name, THRESHOLD),
                side=(sides or {}).get(name, "above"),
            )
            for name in scorers
        },
        perplexity=_median(by_prompt(records, perplexities)),
        perplexity_quartiles=_quartiles(perplexities),
        pooled_perplexity=pooled_perplexity([r.logprob_sum for r in read], [r.logprob_tokens for r in read]),
        repetition=mean_score([record.repetition for record in records]),
        distinct=(distinct(tokens, n=1), distinct(tokens, n=2), distinct(tokens, n=3)),
        compression=compression_ratio(texts),
        unique=unique_share(texts),
        length=mean_length(tokens),
        ended=end_rate([record.finish_reason for record in records]),
        steered=steered([record.steering for record in records]),
        tokens_per_second=sum(map(len, tokens)) / seconds if seconds else math.nan,
    )


def summarise_scores(
    scores: Mapping[PromptKey, Sequence[float]], *, threshold: float = THRESHOLD, side: Side = "above"
) -> ScoreSummary:
    """Of prompt -> scores of its samples. For `below` the extremes are minima, and hits those under the threshold."""
    struck = {key: hits(values, threshold=threshold, side=side) for key, values in scores.items()}
    whole = [hit for values in struck.values() for hit in values]
    known = [hit for hit in whole if not math.isnan(hit)]
    single = all(len(values) == 1 for values in struck.values())
    turned = scores if side == "above" else {key: [-value for value in values] for key, values in scores.items()}
    extreme = expected_maximum(turned)
    return ScoreSummary(
        mean=bootstrap([mean_score(values) for values in scores.values()]),
        rate=wilson(round(sum(known)), len(known))
        if single
        else bootstrap([mean_score(values) for values in struck.values()]),
        expected_maximum=extreme if side == "above" else -extreme,
        hit_probability=hit_probability(struck),
        unscored=len(whole) - len(known),
    )


def text_figures(records: Sequence[Record], scorer: str) -> TextFigures:
    """What `degenerate` compares; texts without a word are those `scorer` could not score."""
    perplexities = [record.perplexity for record in records if not math.isnan(record.perplexity)]
    return TextFigures(
        perplexity=median(np.asarray(perplexities)) if perplexities else math.nan,
        repetition=mean_score([record.repetition for record in records]),
        compression=compression_ratio([record.continuation for record in records]),
        length=mean_length([record.token_ids for record in records]),
        unscored=mean_score([float(math.isnan(score)) for score in scores_of(records, scorer)]),
    )


def _median(values: Mapping[PromptKey, Sequence[float]]) -> Estimate:
    """Median over all samples; a prompt is drawn with all of them."""
    groups = [[value for value in samples if not math.isnan(value)] for samples in values.values()]
    kept = [samples for samples in groups if samples]
    if all(len(samples) == 1 for samples in kept):
        return bootstrap([samples[0] for samples in kept], median)
    rng = np.random.default_rng(0)
    drawn = [median(np.concatenate([kept[at] for at in rng.integers(0, len(kept), len(kept))])) for _ in range(2000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(median(np.concatenate(kept)), float(low), float(high))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, [25, 75])
    return float(low), float(high)
