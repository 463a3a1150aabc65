"""How good is a read-out: pure functions of scores and labels. Empty input is NaN, never a quiet zero.

`scores` are any numbers that rise with the concept; `probabilities` lie in [0, 1]; `labels` are 0 and 1. All (n,).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ECE_BINS = 15


def auroc(scores: Array, labels: Array) -> float:
    """P(score of a positive > score of a negative), ties counting one half (Mann-Whitney U / (n1 n0)).

    NaN when one class is absent.
    """
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each distinct score, from 1
    rank_sum = float(ranks[inverse][labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def accuracy(probabilities: Array, labels: Array) -> float:
    """Share of rows where (probability >= 0.5) equals the label."""
    return math.nan if len(labels) == 0 else float(((probabilities >= 0.5) == (labels == 1)).mean())


def brier(probabilities: Array, labels: Array) -> float:
    """(1/n) sum_i (p_i - y_i)^2; 0 is perfect, 0.25 is what p = 0.5 everywhere gets."""
    return math.nan if len(labels) == 0 else float(((probabilities - labels) ** 2).mean())


def ece(probabilities: Array, labels: Array, *, bins: int = ECE_BINS) -> float:
    """Expected calibration error: sum_k (n_k / n) |mean(y in bin k) - mean(p in bin k)|.

    `bins` of equal width over [0, 1], each closed on the left, the last on both sides.
    """
    if len(labels) == 0:
        return math.nan
    index = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    gap = np.bincount(index, weights=labels - probabilities, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def log_loss(probabilities: Array, labels: Array) -> float:
    """-(1/n) sum_i [y_i log p_i + (1 - y_i) log(1 - p_i)], probabilities kept 1e-15 away from 0 and 1."""
    if len(labels) == 0:
        return math.nan
    kept = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return float(-np.where(labels == 1, np.log(kept), np.log1p(-kept)).mean())
