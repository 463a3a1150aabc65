"""The scorers by the names a command line knows them by."""

from __future__ import annotations

from collections.abc import Callable

from steering.errors import InvalidRequest
from steering.scorers.base import Scorer
from steering.scorers.profanity import AltProfanity
from steering.scorers.spanish import Spanish
from steering.scorers.vader import Vader

SCORERS: dict[str, Callable[[], Scorer]] = {"alt-profanity": AltProfanity, "vader": Vader, "spanish": Spanish}
"""Name -> what makes the scorer."""


def make_scorer(name: str) -> Scorer:
    """The scorer called `name`. Raises InvalidRequest for an unknown name, ModelError when its package is missing."""
    try:
        make = SCORERS[name]
    except KeyError:
        raise InvalidRequest(
            f"there is no scorer '{name}'; expected one of {', '.join(SCORERS)}", param="scorer"
        ) from None
    return make()
