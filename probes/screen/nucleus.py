"""Drawing tokens so that two arms part only where their distributions do.

    token = argmax over the nucleus of log p(v) + g(row, step, v),   g standard Gumbel noise

This draws from the nucleus (the smallest set of the likeliest tokens whose probability reaches top_p, renormalised).
The noise belongs to the row, the step and the token, whatever the arm, so two arms draw different tokens with
probability at most 2 TV / (1 + TV), TV being the total variation distance of their nuclei (Daliri, Musco and Suresh,
arXiv 2408.07978). The draw of `steering.choosing`, one uniform number through the inverse of the cumulative
distribution, is as right for one text but parts two of them far sooner, since every boundary before the token moves:
it left 2 of 100 texts alone where this leaves 30 to 60. A pair that parts by chance is noise in every figure.

The noise is a hash (the finaliser of splitmix64) of those three numbers, so that it need not be made for the whole
vocabulary. Nor is the vocabulary sorted: the nucleus is nearly always among the likeliest 256 tokens; rows where it is
not are sorted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FEW = 256
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def draw(logits: Tensor, *, rows: Sequence[int], step: int, seed: int, top_p: float) -> Tensor:
    """Next tokens, (batch,) int64 on the host, for logits (batch, vocab); `rows` are the numbers of the prompts."""
    scores = logits.float().cpu()
    few = min(_FEW, scores.shape[-1])
    log_mass = scores.log_softmax(dim=-1)
    keys = _keys(rows, step=step, seed=seed)
    value, token = log_mass.topk(few, dim=-1)
    tokens = _pick(value, token, keys, top_p=top_p)
    short = (value.double().exp().sum(dim=-1) < top_p).nonzero().flatten()
    if len(short) and few < scores.shape[-1]:
        value, token = log_mass[short].sort(dim=-1, descending=True, stable=True)
        tokens[short] = _pick(value, token, keys[short.numpy()], top_p=top_p)
    return tokens


def gumbel(keys: NDArray[np.uint64], token: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel noise (batch, k) of the tokens (batch, k) under the keys (batch,)."""
    bits = _mixed(keys[:, None] ^ _mixed(token.astype(np.uint64) * _GOLDEN))
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _pick(log_mass: Tensor, token: Tensor, keys: NDArray[np.uint64], *, top_p: float) -> Tensor:
    """From log-probabilities (batch, k), falling, of the tokens (batch, k)."""
    mass = log_mass.double().exp()
    kept = mass.cumsum(dim=-1) - mass < top_p
    noisy = log_mass.double() + torch.from_numpy(gumbel(keys, token.numpy()))
    best = noisy.masked_fill(~kept, -torch.inf).argmax(dim=-1, keepdim=True)
    return token.gather(-1, best).squeeze(-1)


def _keys(rows: Sequence[int], *, step: int, seed: int) -> NDArray[np.uint64]:
    """One key per row of this step."""
    row = _mixed(np.array(rows, dtype=np.uint64) * _GOLDEN + np.uint64(seed))
    return _mixed(row + np.array([step + 1], dtype=np.uint64) * _GOLDEN)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014); arithmetic modulo 2^64."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    return bits ^ (bits >> np.uint64(31))
