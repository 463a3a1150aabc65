"""What an on-policy run is asked to make, beside what `probes.training.recipe.Recipe` says of any probe."""

from __future__ import annotations

from dataclasses import dataclass, field

from probes.errors import FitError
from probes.lookahead.states import StoreDType
from probes.lookahead.windows import Rule
from probes.lookahead.writing import Pen

WARNINGS = (0, 5, 10)
"""Tokens between a state and its window, in the comparison with the probe of finished texts."""


@dataclass(frozen=True)
class Ahead:
    """The choices of a look-ahead probe. Raises FitError for values outside their range."""

    pen: Pen = field(default_factory=Pen)
    rule: Rule = field(default_factory=Rule)
    states: int = 12
    """Of one continuation, at most."""
    corpus_share: float = 0.5
    """Weight of the labelled corpus in the fit."""
    iterations: int = 1
    """2: write again under the first probe's default bound, and fit on both."""
    store: StoreDType = "float32"

    def __post_init__(self) -> None:
        if not 0.0 <= self.corpus_share <= 1.0:
            raise FitError(
                f"--corpus-share is {self.corpus_share}; expected a number from 0 to 1", param="corpus_share"
            )
        if self.iterations not in (1, 2):
            raise FitError(f"--iterations is {self.iterations}; expected 1 or 2", param="iterations")
        if self.pen.new_tokens <= self.rule.horizon:
            raise FitError(
                f"continuations of {self.pen.new_tokens} tokens hold no whole window of {self.rule.horizon}; raise "
                "--new-tokens or lower --horizon",
                param="new_tokens",
            )
        for name, value in (
            ("continuations", self.pen.continuations),
            ("states", self.states),
            ("batch", self.pen.batch),
        ):
            if value < 1:
                raise FitError(f"{name} is {value}; expected at least 1", param=name)
