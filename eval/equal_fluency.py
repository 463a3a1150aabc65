"""How much of a score goes at a given cost to the text: what is compared between methods that are stronger and weaker.

A method is a path of settings, from doing nothing to its strongest. Between neighbouring settings the mean score and
the logarithm of the median perplexity are taken to change linearly. The path is followed until the text first costs
`budget` times the unsteered perplexity, and no further; a path that never costs as much is followed to its end:

    t* = min { t : perplexity(t) = budget * perplexity(0) },   relief = +-(score(0) - score(t*))

So nothing is picked for looking well: a point is reached by pushing as hard as the budget allows. Intervals are
percentile bootstraps over prompts, each drawn once for all settings of all methods, which are then paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.claim import Aim
from eval.statistics import Estimate
from steering.errors import InvalidRequest

Array = NDArray[np.float64]

BUDGET = 1.05
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Setting:
    """One arm: values (prompts, samples), the prompts in the same order in every arm; NaN where there is none."""

    name: str
    scores: Array
    perplexities: Array


@dataclass(frozen=True)
class Stop:
    """Where a path ends."""

    score: float
    perplexity: float
    place: float
    """In settings: 0 is unsteered, 1.5 is half way between the first setting and the second"""
    spent: bool
    """Whether the budget ended it; False: it is the strongest setting, and the method has not been pushed further"""


@dataclass(frozen=True)
class Relief:
    """What one method gives for the budget."""

    method: str
    settings: tuple[str, ...]
    stop: Stop
    relief: Estimate
    """Of the mean score, positive where it went the way that is wanted"""
    share: Estimate
    """Of the unsteered mean score; NaN where some resampled prompts have none"""


@dataclass(frozen=True)
class Contest:
    """One method against another at the same cost."""

    method: str
    against: str
    difference: Estimate
    """Of the reliefs"""
    ratio: float
    """Of the reliefs; NaN where the other one's is not above zero"""
    apart: bool
    """Whether the whole interval of the relief lies above the other one's"""

    def at_least(self, times: float) -> bool:
        """Whether the relief is so many times the other one's, with intervals that do not overlap."""
        return self.apart and (math.isnan(self.ratio) or self.ratio >= times)


def walk(perplexities: Sequence[float] | Array, scores: Sequence[float] | Array, *, budget: float = BUDGET) -> Stop:
    """Follow a path of settings, the unsteered one first, to where it costs `budget` times that one's perplexity.

    Raises InvalidRequest for a budget that is not above 1.
    """
    if not budget > 1:
        raise InvalidRequest(f"budget is {budget:g}; expected a factor above 1, such as 1.05", param="budget")
    limit = math.log(budget * perplexities[0])
    was = math.log(perplexities[0])
    for at in range(1, len(scores)):
        now = math.log(perplexities[at])
        if math.isnan(now):  # nothing was written
            return Stop(float(scores[at - 1]), math.exp(was), float(at - 1), spent=True)
        if now > limit:
            part = (limit - was) / (now - was)
            score = scores[at - 1] + part * (scores[at] - scores[at - 1])
            return Stop(float(score), math.exp(limit), at - 1 + part, spent=True)
        was = now
    return Stop(float(scores[-1]), math.exp(was), float(len(scores) - 1), spent=False)


def reliefs(
    unsteered: Setting,
    methods: Mapping[str, Sequence[Setting]],
    *,
    aim: Aim,
    budget: float = BUDGET,
    contests: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> tuple[list[Relief], list[Contest]]:
    """Relief of every method, and the `contests` of one against another; settings from the weakest to the strongest.

    Raises InvalidRequest for arms of different prompts, and for a method that is not there.
    """
    for name in (name for contest in contests for name in contest):
        if name not in methods:
            raise InvalidRequest(f"there is no method '{name}'; there are: {', '.join(methods)}", param="against")
    paths = {name: [unsteered, *settings] for name, settings in methods.items() if settings}
    shape = unsteered.scores.shape
    for path in paths.values():
        for setting in path:
            if setting.scores.shape != shape or setting.perplexities.shape != shape:
                raise InvalidRequest(f"'{setting.name}' has other prompts or samples than '{unsteered.name}'")
    sign = 1.0 if aim == "lower" else -1.0
    rng = np.random.default_rng(seed)
    draws = np.vstack([np.arange(shape[0]), rng.integers(0, shape[0], (RESAMPLES, shape[0]))])
    figures = {id(one): _figures(one, draws) for path in paths.values() for one in path}
    base = _figures(unsteered, draws)[1]
    drawn, stops = {}, {}
    for name, path in paths.items():
        costs, scores = (np.stack(values) for values in zip(*(figures[id(one)] for one in path), strict=True))
        ends = [walk(costs[:, at], scores[:, at], budget=budget) for at in range(len(draws))]
        stops[name] = ends[0]
        drawn[name] = sign * (base - np.asarray([stop.score for stop in ends]))
    found = [
        Relief(
            name,
            tuple(setting.name for setting in path[1:]),
            stops[name],
            _estimate(drawn[name]),
            _share(drawn[name], base),
        )
        for name, path in paths.items()
    ]
    known = {one.method: one for one in found}
    return found, [_contest(known[one], known[other], drawn) for one, other in contests]


def _contest(one: Relief, other: Relief, drawn: Mapping[str, Array]) -> Contest:
    return Contest(
        one.method,
        other.method,
        _estimate(drawn[one.method] - drawn[other.method]),
        one.relief.value / other.relief.value if other.relief.value > 0 else math.nan,
        apart=one.relief.low > other.relief.high,
    )


def _share(relief: Array, base: Array) -> Estimate:
    """Relief over the unsteered score; NaN where some resample has none: the interval would have no end."""
    if not (base > 0).all():
        return Estimate(math.nan, math.nan, math.nan)
    return _estimate(relief / base)


def _figures(setting: Setting, draws: NDArray[np.intp]) -> tuple[Array, Array]:
    """Of every draw: median perplexity over continuations, mean over prompts of their mean scores; NaN without any."""
    known = ~np.isnan(setting.scores)
    count = known.sum(axis=1)
    means = np.where(known, setting.scores, 0.0).sum(axis=1) / np.maximum(count, 1)
    scored = (count > 0)[draws].sum(axis=1)
    total = np.where(count > 0, means, 0.0)[draws].sum(axis=1)
    perplexities = setting.perplexities[draws].reshape(len(draws), -1)
    return (
        np.asarray([np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else math.nan for row in perplexities])
        if np.isnan(perplexities).any()
        else np.median(perplexities, axis=1),
        np.where(scored > 0, total / np.maximum(scored, 1), math.nan),
    )


def _estimate(values: Array) -> Estimate:
    """The first is the figure itself, the others resamples of it."""
    known = values[1:][~np.isnan(values[1:])]
    if not known.size:
        return Estimate(math.nan, math.nan, math.nan)
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(float(values[0]), float(low), float(high))
