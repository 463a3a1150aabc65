"""Figures as they are printed: estimates with their intervals, p values, and what cannot be said as a dash."""

from __future__ import annotations

import math

from eval.claim import Evidence
from eval.statistics import Estimate
from steering.page.document import Aside, Code, Strong, Words

ABSENT = "-"

Span = str | Code | Strong | Aside


def number(value: float, digits: int = 2) -> str:
    """`0.25`; a dash for NaN."""
    return ABSENT if math.isnan(value) else f"{value:.{digits}f}"


def share(value: float) -> str:
    """`25%`"""
    return ABSENT if math.isnan(value) else f"{100 * value:.0f}%"


def estimate(found: Estimate, digits: int = 3) -> Words:
    """`0.250` and its interval beside it."""
    if math.isnan(found.value):
        return (ABSENT,)
    return (f"{found.value:.{digits}f} ", Aside(f"[{number(found.low, digits)}, {number(found.high, digits)}]"))


def share_estimate(found: Estimate) -> Words:
    """`25%` and its interval beside it."""
    if math.isnan(found.value):
        return (ABSENT,)
    return (f"{share(found.value)} ", Aside(f"[{100 * found.low:.0f}, {100 * found.high:.0f}]"))


def points(found: Estimate) -> Words:
    """A difference of shares, `-12` in percentage points, and its interval beside it."""
    if math.isnan(found.value):
        return (ABSENT,)
    return (f"{100 * found.value:+.0f} ", Aside(f"[{100 * found.low:+.0f}, {100 * found.high:+.0f}]"))


def difference(found: Estimate, digits: int = 3) -> Words:
    """`-0.120` and its interval beside it."""
    if math.isnan(found.value):
        return (ABSENT,)
    return (f"{found.value:+.{digits}f} ", Aside(f"[{found.low:+.{digits}f}, {found.high:+.{digits}f}]"))


def change(evidence: Evidence, found: Estimate) -> Words:
    """In points for a rate, in the score's own unit for a mean."""
    return points(found) if evidence.measure == "rate" else difference(found)


def p_value(p: float) -> str:
    """Three digits; below that it is said so."""
    if math.isnan(p):
        return ABSENT
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def listed(parts: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def plain(words: Words) -> str:
    """Without marks, for where only letters fit."""
    return "".join(word if isinstance(word, str) else word.text for word in words)


def counted(n: int, what: str) -> str:
    """'1 prompt', '2 prompts'."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
