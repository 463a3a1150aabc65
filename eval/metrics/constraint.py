"""What steering did to the residual stream, from the reports of the continuations, and what it cost.

edited      sum of edited tokens / sum of tokens read under the plan
mean dose   mean of ||delta|| / ||resid|| over edited tokens (each report's mean, weighted by its edited tokens)
violations  tokens whose stored value is outside its bound: the one figure the algebra promises to be 0
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Steered:
    """One probe over all continuations of an arm."""

    continuations: int
    tokens: int
    edited: float
    """Share of `tokens` that were moved"""
    mean_dose: float
    """NaN when nothing was moved"""
    max_dose: float
    violations: int
    capped: int
    infeasible: int
    max_post: float
    """Highest probability that was stored; NaN for an uncalibrated probe"""
    min_post: float
    promised: bool
    """Whether every continuation's bound was promised; if not, violations are no breach"""


def steered(reports: Sequence[Mapping[str, Any] | None]) -> dict[str, Steered]:
    """By probe id, for reports as in the HTTP field `steering` ({"probes": {id: {...}}}); None is unsteered."""
    by_probe: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        for name, probe in (report or {}).get("probes", {}).items():
            by_probe.setdefault(name, []).append(probe)
    return {name: _one(probes) for name, probes in by_probe.items()}


def _one(probes: Sequence[Mapping[str, Any]]) -> Steered:
    tokens, edited = _sum(probes, "tokens"), _sum(probes, "edited")
    dose = math.fsum(probe["mean_dose"] * probe["edited"] for probe in probes)
    return Steered(
        continuations=len(probes),
        tokens=tokens,
        edited=edited / tokens if tokens else math.nan,
        mean_dose=dose / edited if edited else math.nan,
        max_dose=max(probe["max_dose"] for probe in probes),
        violations=_sum(probes, "violations"),
        capped=_sum(probes, "capped"),
        infeasible=_sum(probes, "infeasible"),
        max_post=max(_known(probes, "max_post"), default=math.nan),
        min_post=min(_known(probes, "min_post"), default=math.nan),
        promised=all(probe["promised"] for probe in probes),
    )


def _sum(probes: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(int(probe[name]) for probe in probes)


def _known(probes: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """JSON has null where the report has NaN."""
    return [probe[name] for probe in probes if probe[name] is not None and not math.isnan(probe[name])]


def speed_ratio(tokens: int, seconds: float, *, unhooked_tokens: int, unhooked_seconds: float) -> float:
    """(tokens / seconds) over that of a model without a hook: 0.97 is three per cent slower. NaN without either."""
    if not (tokens and seconds and unhooked_tokens and unhooked_seconds):
        return math.nan
    return (tokens / seconds) / (unhooked_tokens / unhooked_seconds)
