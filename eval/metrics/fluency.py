"""Is it still text? Cheap detectors of collapse, on what was written; each needs another beside it.

    perplexity   exp(-(1/n) sum_i ln P(c_i | prompt, c_<i))     read two-sided: loops are low, broken text is high
    seq-rep-n    1 - |distinct n-grams| / |n-grams|             of one text (Welleck et al. 2019, 1908.04319)
    distinct-n   |distinct n-grams| / |n-grams|                 over all texts of an arm (Li et al. 2016, 1510.03055)
    compression  bytes / gzip bytes of all texts joined         (Shaib et al. 2024, 2403.00553)

distinct-n falls and compression rises with the amount of text, so arms compare at equal numbers of samples. Token ids,
where given, are those that were written: no re-tokenisation blurs them.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Hashable, Iterator, Sequence


def perplexity(logprob_sum: float, tokens: int) -> float:
    """exp(-logprob_sum / tokens) of one continuation, natural logarithms; NaN for none. Infinite where it overflows."""
    if not tokens or math.isnan(logprob_sum):
        return math.nan
    try:
        return math.exp(-logprob_sum / tokens)
    except OverflowError:
        return math.inf


def pooled_perplexity(logprob_sums: Sequence[float], tokens: Sequence[int]) -> float:
    """exp(-sum of log-probabilities / sum of tokens): each token counts alike, so long texts weigh more."""
    return perplexity(math.fsum(logprob_sums), sum(tokens))


def repetition(token_ids: Sequence[Hashable], *, n: int = 4) -> float:
    """seq-rep-n: share of the n-grams of one text that came before; NaN when it is shorter than n."""
    grams = list(_grams(token_ids, n))
    return 1.0 - len(set(grams)) / len(grams) if grams else math.nan


def distinct(texts: Sequence[Sequence[Hashable]], *, n: int) -> float:
    """distinct-n over all texts, given as token ids; n-grams do not run from one text into the next."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def compression_ratio(texts: Sequence[str]) -> float:
    """UTF-8 bytes over gzip bytes of the texts joined by newlines; above that of ordinary text, it repeats."""
    whole = "\n".join(texts).encode()
    return len(whole) / len(gzip.compress(whole, compresslevel=9, mtime=0)) if whole else math.nan


def unique_share(texts: Sequence[str]) -> float:
    """Share of different texts among all; an arm that always writes the same has 1 / n."""
    return len(set(texts)) / len(texts) if texts else math.nan


def mean_length(texts: Sequence[Sequence[Hashable]]) -> float:
    """Mean number of tokens written."""
    return sum(map(len, texts)) / len(texts) if texts else math.nan


def end_rate(finish_reasons: Sequence[str]) -> float:
    """EOS rate: share of continuations the model ended itself (`stop`) before the limit of tokens."""
    return finish_reasons.count("stop") / len(finish_reasons) if finish_reasons else math.nan


def _grams(tokens: Sequence[Hashable], n: int) -> Iterator[tuple[Hashable, ...]]:
    return zip(*(tokens[start:] for start in range(n)), strict=False)
