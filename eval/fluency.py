"""Fluency of continuations: conditional perplexity under the unsteered model, and repetition.

    ppl(c | p) = exp( -1/|c| * sum_i log P(c_i | p, c_<i) )        seq-rep-n(c) = 1 - |distinct n-grams| / |n-grams|

Read it two-sided: looping text has a *low* perplexity, broken text a high one. It is taken on token ids, so no
re-tokenisation blurs it. Not an external judge: the model that writes also scores. seq-rep-n is that of Welleck et al.
(1908.04319), also on token ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from steering import LanguageModel
from steering.stepping import left_pad, prefill_inputs


@torch.inference_mode()
def conditional_perplexity(
    lm: LanguageModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch: int = 16,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Perplexity of each (prompt ids, continuation ids); NaN for an empty continuation.

    Nothing may be steering `lm` meanwhile.
    """
    values: list[float] = []
    for at in range(0, len(pairs), batch):
        rows = pairs[at : at + batch]
        whole = [[*prompt, *continuation] for prompt, continuation in rows]
        ids, mask = left_pad(whole, pad_token_id=lm.tokenizer.pad_token_id, device=lm.device)
        longest = max(len(continuation) for _, continuation in rows) + 1
        logits = lm.model(**prefill_inputs(lm.model, ids, mask), use_cache=False).logits[:, -longest:-1].float()
        chosen = logits.log_softmax(dim=-1).gather(-1, ids[:, -longest + 1 :].unsqueeze(-1)).squeeze(-1)
        for row, (_, continuation) in zip(chosen, rows, strict=True):
            count = len(continuation)
            values.append(math.exp(-float(row[-count:].mean())) if count else math.nan)
        on_batch(len(rows))
    return values


def repetition(token_ids: Sequence[int], *, n: int = 4) -> float:
    """Share of the n-grams of `token_ids` that came before; NaN when it is shorter than n."""
    grams = list(zip(*(token_ids[start:] for start in range(n)), strict=False))
    return 1.0 - len(set(grams)) / len(grams) if grams else math.nan
