"""Conditional perplexity of continuations under the unsteered model; the other measures are in `eval.metrics.fluency`.

    ppl(c | p) = exp( -1/|c| * sum_i log P(c_i | p, c_<i) )

Read it two-sided: looping text has a *low* perplexity, broken text a high one. It is taken on token ids, so no
re-tokenisation blurs it. Not an external judge: the model that writes also scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from eval.metrics import perplexity
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
            values.append(perplexity(float(row[-count:].sum()) if count else 0.0, count))
        on_batch(len(rows))
    return values
