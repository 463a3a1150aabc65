"""Pooling: which rows stand for a text of n tokens, from the residual stream after one block.

    last   resid[n]                             the state from which the next token would be written
    mean   1/(n-1) sum_{t=2..n} resid[t]        of a text of one token: that token
    all    resid[t], t = 2..n                   one row per token, at most `cap` of them, evenly spaced, the last among
                                                them; of a text of one token: that token

Mean and all leave the first token out. In a causal model it sees nothing but itself, and most models use it as an
attention sink: in the embedded one its residual is a hundred times longer than any other at most layers, so that
a mean with it would read 1/n, the length of the text, and no single later token would look like such a mean.

The arithmetic is float32 whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from probes.harvest.shards import Pooling

Pool = Callable[[Tensor], Tensor]
"""(batch, seq, hidden_size) -> (rows, hidden_size) float32."""


def kept_positions(length: int, *, cap: int) -> list[int]:
    """0-based positions of the tokens that "all" keeps of a text: at most `cap`, the last always among them."""
    count = length - 1
    if count <= cap:
        return list(range(1, length)) or [0]
    return [count - (cap - 1 - number) * (count - 1) // max(1, cap - 1) for number in range(cap)]


def make_pool(pooling: Pooling, lengths: Sequence[int], *, cap: int) -> Pool:
    """The pooling of one batch padded on the right, `lengths` real tokens each; made once, used at every layer.

    Rows come in the batch's order, those of "all" text by text with rising positions.
    """
    if pooling == "mean":
        return _mean(torch.tensor(lengths))
    positions = [[length - 1] if pooling == "last" else kept_positions(length, cap=cap) for length in lengths]
    text = torch.tensor([index for index, kept in enumerate(positions) for _ in kept])
    token = torch.tensor([position for kept in positions for position in kept])
    return lambda resid: resid[text.to(resid.device), token.to(resid.device)].float()


def _mean(lengths: Tensor) -> Pool:
    position, ends = torch.arange(int(lengths.max())), lengths.unsqueeze(-1)
    counted = ((position < ends) & ((position > 0) | (ends == 1))).unsqueeze(-1)
    count = counted.sum(dim=1)

    def pool(resid: Tensor) -> Tensor:
        real = torch.where(counted.to(resid.device), resid.float(), 0.0)  # padding may hold anything, also NaN
        return real.sum(dim=1) / count.to(resid.device)

    return pool
