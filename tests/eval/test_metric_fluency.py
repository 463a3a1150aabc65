"""Fluency by hand: which text loops, which breaks off, which is long."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest

from eval.metrics import (
    compression_ratio,
    distinct,
    end_rate,
    mean_length,
    perplexity,
    pooled_perplexity,
    repetition,
    unique_share,
)


def test_perplexity_of_a_fair_choice_among_eight_is_eight() -> None:
    assert perplexity(5 * math.log(1 / 8), 5) == pytest.approx(8.0)
    assert math.isnan(perplexity(0.0, 0))
    assert math.isnan(perplexity(math.nan, 3))
    assert perplexity(-1e6, 1) == math.inf


def test_pooled_perplexity_weighs_tokens_and_not_texts() -> None:
    logprobs = [np.log([0.5, 0.25]), np.log([0.1])]
    found = pooled_perplexity([row.sum() for row in logprobs], [2, 1])
    assert found == pytest.approx(float(np.exp(-np.concatenate(logprobs).mean())))
    assert math.isnan(pooled_perplexity([], []))


def test_repetition_is_the_share_of_four_grams_that_came_before() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition([7] * 20) == pytest.approx(16 / 17)
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([1, 1, 2], n=1) == pytest.approx(1 / 3)
    assert math.isnan(repetition([1, 2, 3]))


def test_distinct_counts_over_all_texts_and_never_across_two() -> None:
    texts = [[1, 2, 3], [1, 2, 4], [5]]
    assert distinct(texts, n=1) == pytest.approx(5 / 7)
    # (1,2) (2,3) (1,2) (2,4); not (3,1), not (4,5)
    assert distinct(texts, n=2) == pytest.approx(3 / 4)
    assert distinct(texts, n=3) == 1.0
    assert math.isnan(distinct(texts, n=4))


def test_looping_text_compresses_better_than_ordinary_text() -> None:
    ordinary = ["The boat left the harbour before the fog had lifted.", "We never did find out who had painted it."]
    looping = ["the sea the sea the sea the sea the sea the sea the sea", "the sea the sea the sea the sea the sea"]
    assert compression_ratio(looping) > 2 * compression_ratio(ordinary)
    size = len(gzip.compress("\n".join(ordinary).encode()))
    assert compression_ratio(ordinary) == pytest.approx(len("\n".join(ordinary)) / size, rel=0.02)


def test_length_ends_and_unique_texts_are_counted() -> None:
    assert mean_length([[1, 2, 3], [], [4]]) == pytest.approx(4 / 3)
    assert end_rate(["stop", "length", "length", "stop"]) == 0.5
    assert unique_share(["a", "b", "a", "a"]) == 0.5


def test_nothing_has_no_figure() -> None:
    found = [distinct([], n=1), compression_ratio([]), mean_length([]), end_rate([]), unique_share([]), repetition([])]
    assert all(math.isnan(value) for value in found)
