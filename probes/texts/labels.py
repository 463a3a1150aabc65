"""Where text, label and group stand in a file, and what a label value means: 0 or 1.

A label is 0/1 (numbers, booleans or their digits); or one of two names, of which `positive` means that the concept is
present; or a score, which is 1 from `threshold` on. Classes stored by number (`datasets.ClassLabel`) go by their names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from probes.errors import CorpusError

_BINARY: dict[str, int] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_MOST = 1000  # different values remembered of a column that should have two


@dataclass(frozen=True)
class Columns:
    """Where text, label and group stand in a file. Raises CorpusError for settings that contradict one another."""

    text: str = "text"
    label: str = "label"
    positive: str | None = None
    """The label value that means 1; None: labels are 0 and 1 already, or scores."""
    group: str | None = None
    """Column whose equal values must stay in one split; None: no such column. An empty value is no group: that text
    is its own."""
    threshold: float | None = None
    """The label is a score, and 1 from here on; None: it is no score."""

    def __post_init__(self) -> None:
        if self.threshold is not None and self.positive is not None:
            raise CorpusError(
                "--threshold is for scores and --positive for labels that are names; a column is one of the two: give "
                "one of these options",
                param="threshold",
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise CorpusError(
                f"--threshold {self.threshold} divides nothing; expected a finite score such as 0.5", param="threshold"
            )


class Labeller:
    """Reads one column of a file as labels, row by row; `finish` looks back on all of them."""

    def __init__(self, where: str, columns: Columns, *, column: str, classes: Sequence[str] | None = None) -> None:
        """`where` is the file for messages; `classes` names a column of class numbers."""
        self._where = where
        self._columns = columns
        self._column = column
        self._classes = classes
        self._seen: set[str] = set()
        if classes is not None and columns.threshold is not None:
            raise CorpusError(
                f"{where}: '{column}' holds classes ({', '.join(classes)}), not scores; use --positive rather than "
                "--threshold",
                param="threshold",
            )

    def __call__(self, number: int, value: Any) -> int:
        """0 or 1. The value stays out of any message: of a wrong column it may be a text."""
        if value is None or value == "":
            raise CorpusError(f"{self._where}, row {number}: '{self._column}' is empty; label the row or remove it")
        if self._columns.threshold is not None:
            return int(self._score(number, value) >= self._columns.threshold)
        if self._columns.positive is not None:
            name = class_name(self._where, number, value, column=self._column, classes=self._classes)
            if len(self._seen) <= _MOST:
                self._seen.add(name)
            return int(name == self._columns.positive)
        try:
            return _BINARY[str(value).lower()]
        except KeyError:
            named = f" (its classes are {', '.join(self._classes)})" if self._classes else ""
            raise CorpusError(
                f"{self._where}, row {number}: '{self._column}' is neither 0 nor 1{named}; for labels that are names "
                "(en / es) say with --positive which one means that the concept is present, for scores give a "
                "--threshold",
                param="label_column",
            ) from None

    def finish(self) -> None:
        """With --positive a third label, or a misspelt one, would pass as 'not the concept'. Raises CorpusError."""
        if self._columns.positive is None or not self._seen:
            return
        if len(self._seen) > 2:
            count = f"more than {_MOST}" if len(self._seen) > _MOST else str(len(self._seen))
            raise CorpusError(
                f"{self._where}: '{self._column}' has {count} different values, expected two; keep the rows of two "
                "classes, map the labels to 0 and 1, or train one probe per class",
                param="label_column",
            )
        if self._columns.positive not in self._seen:
            known = f"; its classes are {', '.join(self._classes)}" if self._classes else ""
            raise CorpusError(
                f"{self._where}: no row has '{self._column}' equal to '{self._columns.positive}'{known}; check "
                "--positive",
                param="positive",
            )

    def _score(self, number: int, value: Any) -> float:
        try:
            score = float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            raise CorpusError(
                f"{self._where}, row {number}: '{self._column}' is no finite number, and --threshold reads scores; "
                "mend or remove the row, or check --label-column",
                param="label_column",
            )
        return score


def class_name(where: str, number: int, value: Any, *, column: str, classes: Sequence[str] | None) -> str:
    """The class of a row in words: the name of a class number, any other value as it is written."""
    if classes is None or isinstance(value, str):
        return str(value)
    if isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    raise CorpusError(
        f"{where}, row {number}: '{column}' is not the number of one of its {len(classes)} classes "
        f"({', '.join(classes)}); label the row or remove it",
        param="label_column",
    )


def as_group(value: Any) -> str | None:
    """The name of a row's group; nothing or an empty text is none."""
    return None if value is None or value == "" else str(value)


def as_text(where: str, number: int, value: Any, *, column: str) -> str:
    """A text cell. None becomes the empty text, which is refused later together with all the others."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(
            f"{where}, row {number}: '{column}' is of type {type(value).__name__}, expected a string; check "
            "--text-column",
            param="text_column",
        )
    return value
