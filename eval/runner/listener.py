"""Who is told how far a run is: a progress bar, a job's record, nobody."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Told about stages of work; a stage may begin half-done, after a kill."""

    def begin(self, stage: str, *, total: int, done: int) -> None:
        """`stage` has `total` rows, `done` of which were there already."""
        ...

    def advance(self, rows: int) -> None:
        """So many more rows of the present stage are kept."""
        ...

    def say(self, line: str) -> None:
        """A sentence for whoever watches."""
        ...


class Silent:
    """Tells nobody."""

    def begin(self, stage: str, *, total: int, done: int) -> None:
        """Nothing."""

    def advance(self, rows: int) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""
