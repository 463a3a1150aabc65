"""Choosing the next token of a row, from its float32 logits.

A row's draw depends on its own logits, settings, history and seed only: one uniform number per token from the row's own
generator, turned into a token by the inverse of its cumulative distribution. So the same request with the same seed
gives the same tokens whatever shares the batch, and rows may join and leave it between any two steps.

The distribution is that of Transformers' `generate`, in the same order, with one difference: of equals at the edge of
top_k or top_p the lowest ids stay, and no more than asked for. Probabilities are float64. Only what can lie in the
nucleus is sorted: at most 512 tokens hold 1/512 of the mass each, and mostly these reach top_p; at the worst it is
found among the tokens above (1 - top_p) / vocab, since all others together hold less than 1 - top_p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering.errors import InvalidRequest
from steering.sampling import Sampling

Scores = NDArray[np.float32]
"""Logits of one row, (vocab,)."""
Mass = NDArray[np.float64]
"""Probabilities over that of the likeliest token."""
Ids = NDArray[np.int64]
"""Token ids or places, rising."""

_FLOORS = (1 / 512, 1 / 8192)
_LARGEST = float(np.finfo(np.float32).max)


class Chooser:
    """One row's sampler: its generator, and what it has read and written so far."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._biased = np.array(list(sampling.logit_bias), dtype=np.int64)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        self._counting = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        repeats = sampling.repetition_penalty != 1
        self._remembering = repeats or self._counting
        # Every token met so far, once each; how often it was written; and where in both it stands.
        self._met = np.array(list(dict.fromkeys(prompt_ids)) if repeats else [], dtype=np.int64)
        self._written = np.zeros(len(self._met))
        self._place = {token: at for at, token in enumerate(self._met.tolist())}

    def __call__(self, logits: Tensor | Scores) -> int:
        """The next token, from float32 logits (vocab,) on the host, which are left as they are.

        Raises InvalidRequest when they hold NaN or +inf, or nothing finite: the model itself overflowed.
        """
        scores = self.adjusted(logits.numpy() if isinstance(logits, Tensor) else logits)
        token = int(scores.argmax())  # the first of equals; NaN counts as the largest
        if not math.isfinite(scores[token]):
            found = "NaN" if np.isnan(scores[token]) else "infinite"
            raise InvalidRequest(
                f"the model produced {found} logits; try another dtype (--dtype float32) or a looser bound"
            )
        if self._sampling.temperature > 0:
            ids, mass = cut(scores, self._sampling)
            point = float(torch.rand((), generator=self._generator, dtype=torch.float64))
            token = int(ids[inverse(mass, point)])
        self.note(token)
        return token

    def note(self, token: int) -> None:
        """Count one token as written. `__call__` does so itself; this is for tokens that came another way."""
        if not self._remembering:
            return
        if token not in self._place:
            self._place[token] = len(self._met)
            self._met, self._written = np.append(self._met, token), np.append(self._written, 0.0)
        self._written[self._place[token]] += 1

    def adjusted(self, logits: Scores) -> Scores:
        """The logits (vocab,) after bias and penalties; the same array where there are none.

        repetition   z / r if z > 0 else z * r     tokens of the prompt and the new text
        frequency    z - f * count                 tokens of the new text, as OpenAI documents both
        presence     z - p * (count > 0)
        """
        if not self._remembering and not len(self._biased):
            return logits
        scores = logits.copy()
        scores[self._biased] += self._bias
        if self._remembering:
            inside = self._met < len(scores)  # a prompt may hold ids (of images, say) that have no logit
            met, written, asked = self._met[inside], self._written[inside], self._sampling
            value = scores[met].astype(np.float64)
            with np.errstate(over="ignore"):
                value = np.where(value < 0, value * asked.repetition_penalty, value / asked.repetition_penalty)
            value -= asked.frequency_penalty * written + asked.presence_penalty * (written > 0)
            scores[met] = np.clip(value, -_LARGEST, _LARGEST)  # no penalty makes a logit infinite
        return scores


def choose(choosers: Sequence[Chooser], logits: Tensor) -> list[int | InvalidRequest]:
    """The next token of every row, for logits (rows, vocab) of any device; they are copied to the host once.

    A row that cannot be chosen for has its error, not raised, in its place; the others have their tokens.
    """
    scores = logits.detach().float().cpu().numpy()
    chosen: list[int | InvalidRequest] = []
    for chooser, row in zip(choosers, scores, strict=True):
        try:
            chosen.append(chooser(row))
        except InvalidRequest as error:
            chosen.append(error)
    return chosen


def cut(scores: Scores, sampling: Sampling) -> tuple[Ids, Mass]:
    """What temperature, top_k, top_p and min_p leave of adjusted logits (vocab,): token ids, and their mass.

    Temperature must be above 0, and the largest logit finite.
    """
    ids = np.arange(len(scores)) if not 0 < sampling.top_k < len(scores) else _top_k(scores, sampling.top_k)
    mass = scores[ids].astype(np.float64) if len(ids) < len(scores) else scores.astype(np.float64)
    mass -= float(scores.max())
    with np.errstate(over="ignore"):  # a temperature next to nothing: -inf, whose exponential is 0
        mass /= sampling.temperature
    np.exp(mass, out=mass)
    if sampling.top_p < 1:
        kept = _nucleus(mass, sampling.top_p)
        ids, mass = ids[kept], mass[kept]
    if sampling.min_p > 0:
        kept = np.flatnonzero(mass >= sampling.min_p)
        ids, mass = ids[kept], mass[kept]
    return ids, mass


def inverse(mass: Mass, point: float) -> int:
    """The place, in the order given, where the cumulative mass first exceeds `point` in [0, 1) of the whole.

    In the order of the vocabulary: two near-ties that change places by rounding do not change the draw.
    """
    running = torch.from_numpy(mass).cumsum(dim=0).numpy()  # four times as fast as numpy's
    at = running.searchsorted(point * running[-1], side="right")
    return int(min(at, running.searchsorted(running[-1])))  # rounding must not carry it past the last mass above 0


def _top_k(scores: Scores, count: int) -> Ids:
    """Places of the `count` largest."""
    at = len(scores) - count
    return _largest(scores, count, edge=np.partition(scores, at)[at])


def _nucleus(mass: Mass, top_p: float) -> Ids:
    """Places of the fewest tokens whose mass reaches `top_p` of the whole."""
    whole = mass.sum()
    for floor in (*_FLOORS, (1 - top_p) / (2 * len(mass))):  # halved, so that its own rounding is no matter
        places = np.flatnonzero(mass >= floor * whole)
        likely = mass[places]
        if likely.sum() >= top_p * whole:
            break
    falling = np.sort(likely)[::-1]
    # A token stays if the mass before it has not yet reached top_p; the likeliest always stays.
    count = int(np.count_nonzero(falling.cumsum() - falling < top_p * whole))
    return places[_largest(likely, count, edge=falling[count - 1])]


def _largest(values: Scores | Mass, count: int, *, edge: float) -> Ids:
    """Places of the `count` largest values, of which `edge` is the least; of its equals the first stay."""
    kept = values > edge
    kept[np.flatnonzero(values == edge)[: count - np.count_nonzero(kept)]] = True
    return np.flatnonzero(kept)
