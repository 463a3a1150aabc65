"""What is measured of continuations: pure functions of scores, tokens, texts and log-likelihoods. Empty input is NaN.

scores      rate, mean, expected maximum and probability over the samples of a prompt
fluency     perplexity, repetition, distinct n-grams, compression, length, ends
divergence  KL of the next token
capability  pairs and choices by log-likelihood, refusals
constraint  what steering did and cost
"""

from __future__ import annotations

from eval.metrics.capability import REFUSALS, choice_accuracy, is_refusal, pair_accuracy, refusal_rate
from eval.metrics.constraint import Steered, speed_ratio, steered
from eval.metrics.divergence import next_token_kl
from eval.metrics.fluency import (
    compression_ratio,
    distinct,
    end_rate,
    mean_length,
    perplexity,
    pooled_perplexity,
    repetition,
    unique_share,
)
from eval.metrics.scores import by_stratum, expected_maximum, hit_probability, hits, mean_score, rate

__all__ = [
    "REFUSALS",
    "Steered",
    "by_stratum",
    "choice_accuracy",
    "compression_ratio",
    "distinct",
    "end_rate",
    "expected_maximum",
    "hit_probability",
    "hits",
    "is_refusal",
    "mean_length",
    "mean_score",
    "next_token_kl",
    "pair_accuracy",
    "perplexity",
    "pooled_perplexity",
    "rate",
    "refusal_rate",
    "repetition",
    "speed_ratio",
    "steered",
    "unique_share",
]
