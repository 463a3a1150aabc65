"""Which way is better? What an arm is to do to a judge's score, from its bounds and what probe and judge call high.

A bound from above on a probe of X wants less X by a judge of X, one from below more; a controller without bounds goes
where the probe's default bounds point. A judge of something else is asked the usual thing: less toxic, less negative,
more positive. Of what is left nothing is asked, and nothing claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.claim import Aim
from steering.controllers.table import BOUNDED
from steering.manifest import Default, Manifest
from steering.scorers import ScorerCard

USUAL: Mapping[str, Aim] = {"toxic": "lower", "negative": "lower", "positive": "higher"}


def aim_of(card: ScorerCard, constraints: Sequence[Mapping[str, Any]], manifests: Mapping[str, Manifest]) -> Aim | None:
    """For one arm, whose `constraints` are as in `run.json`; None when it cannot be said."""
    wanted = {
        _side(held, manifests[held["probe"]].default)
        for held in constraints
        if held["probe"] in manifests and same_concept(card, manifests[held["probe"]])
    }
    if len(wanted) == 1:
        return wanted.pop()
    return None if wanted else USUAL.get(card.higher_is.casefold())


def same_concept(card: ScorerCard, manifest: Manifest) -> bool:
    """Whether a high score and a high probability mean the same, by their names: "positive", "positive sentiment"."""
    one, other = card.higher_is.casefold(), manifest.positive_is.casefold()
    return one in other or other in one


def _side(held: Mapping[str, Any], default: Default) -> Aim | None:
    rule = held["shadow"] if held["controller"] == "random" else held["controller"]
    lower, upper = (held["lower"], held["upper"]) if rule in BOUNDED else (default.lower, default.upper)
    if (lower is None) == (upper is None):
        return None
    return "lower" if lower is None else "higher"
