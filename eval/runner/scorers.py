"""The scorers of a run: all loaded before anything is written, so that none can fail after hours of writing."""

from __future__ import annotations

from collections.abc import Sequence

from eval.runner.errors import SpecError
from eval.runner.measures import Scores
from steering.errors import TillerError
from steering.scorers import make_scorer


def load_scorers(names: Sequence[str]) -> dict[str, Scores]:
    """Name as it was asked for -> measure. Raises SpecError, naming the scorer, when one cannot be loaded."""
    made: dict[str, Scores] = {}
    for name in names:
        try:
            made[name] = Scores(make_scorer(name))
        except TillerError as error:
            raise SpecError(f"scorer '{name}': {error}", param="scorers") from None
    called = [measure.name for measure in made.values()]
    twice = next((name for at, name in enumerate(called) if name in called[:at]), None)
    if twice is not None or len(made) < len(names):
        raise SpecError(f"the scorer '{twice or names[0]}' stands twice; keep one", param="scorers")
    return made
