"""Which blocks a spec means by `layers`, and what an arm needs to know of a probe to say so."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.runner.errors import SpecError
from eval.runner.spec import Depth
from steering.manifest import Default
from steering.probe import ranges


@dataclass(frozen=True)
class ProbeFacts:
    """What an arm needs to know of a probe, here or on a server."""

    id: str
    sha256: str
    layers: tuple[int, ...]
    """It has a read-out at"""
    default: Default


def layers_of(chosen: str | Sequence[int] | Depth, facts: ProbeFacts, *, depth: int) -> tuple[int, ...]:
    """Block numbers of what a spec calls layers; `depth` is the model's. Raises SpecError."""
    if isinstance(chosen, Depth):
        found = list(range(math.ceil(chosen.start * depth), math.ceil(chosen.end * depth)))
    elif chosen == "default":
        found = list(facts.default.layers)
    elif chosen == "all":
        found = list(facts.layers)
    elif isinstance(chosen, str):
        found = _range(chosen)
    else:
        found = list(chosen)
    strangers = [layer for layer in found if layer not in facts.layers]
    if strangers or not found:
        wrong = f"layer {strangers[0]}" if strangers else "no layer"
        raise SpecError(
            f"layers '{chosen}' names {wrong}, and {facts.id} has layers {ranges(facts.layers)}", param="layers"
        )
    return tuple(sorted(set(found)))


def _range(written: str) -> list[int]:
    found: list[int] = []
    for part in written.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None:
            raise SpecError(
                f"layers '{written}'; expected 'default', 'all' or a range such as '8-29' or '3, 7-9'", param="layers"
            )
        first = int(match[1])
        found += range(first, int(match[2] or first) + 1)
    return found
