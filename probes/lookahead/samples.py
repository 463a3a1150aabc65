"""Labelled states of one or several rounds of writing, side by side, divided by prompt.

A round is one policy: the model alone, or the model under a plan. All rounds continue the same prompts, so a prompt has
its states of every round on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.errors import FitError
from probes.harvest.shards import Floats
from probes.lookahead.prompts import SIDES, Prompts, Side
from probes.lookahead.states import States
from probes.lookahead.windows import NONE
from probes.methods.fit import Labels

LEAST = 20
"""Labelled states of each class that a side must have at least."""


@dataclass(frozen=True, eq=False)
class Round:
    """What one round of writing left behind."""

    states: States
    prompt: NDArray[np.int64]
    """(states,) position of each state's prompt."""
    labels: Mapping[int, Labels]
    """Tokens of warning -> (states,) of 0, 1 and NONE."""
    texts: int

    @property
    def base_rate(self) -> float:
        """Share of labelled windows, without warning, that show the concept."""
        own = self.labels[0]
        return float((own[own != NONE] == 1).mean())


@dataclass(frozen=True, eq=False)
class Sample:
    """The states of `rounds` in order, with the side and the fold of each."""

    rounds: Sequence[Round]
    prompts: Prompts
    seed: int

    def layer(self, layer: int) -> Floats:
        """(states, hidden_size) float32."""
        return np.concatenate([found.states.layer(layer) for found in self.rounds])

    def labels(self, warning: int = 0) -> Labels:
        """(states,) of 0, 1 and NONE."""
        return np.concatenate([found.labels[warning] for found in self.rounds])

    @property
    def prompt(self) -> NDArray[np.int64]:
        """(states,) position of each state's prompt."""
        return np.concatenate([found.prompt for found in self.rounds])

    def rows(self, side: Side, *, warning: int = 0, turn: int | None = None) -> NDArray[np.int64]:
        """Positions of the labelled states of one side; `turn` takes one round alone."""
        chosen = np.isin(self.prompt, self.prompts.sides(seed=self.seed)[side]) & (self.labels(warning) != NONE)
        if turn is not None:
            sizes = [len(found.prompt) for found in self.rounds]
            chosen &= np.repeat(np.arange(len(sizes)), sizes) == turn
        return np.flatnonzero(chosen)

    def folds(self, count: int) -> NDArray[np.int64]:
        """(states,) fold of each state, by prompt."""
        return self.prompts.folds(count, seed=self.seed)[self.prompt]

    def require_classes(self) -> None:
        """Raise FitError unless every side has enough labelled states of both classes."""
        labels = self.labels()
        for side in SIDES:
            own = labels[self.rows(side)]
            ones = int(own.sum())
            if min(ones, len(own) - ones) < LEAST:
                raise FitError(
                    f"the {side} side has {len(own)} labelled states, {ones} of them with the concept; at least "
                    f"{LEAST} of each class are needed. Give more prompts, or such that both outcomes occur; change "
                    "--window-threshold, or label by --window-quantile",
                    param="prompts",
                )
