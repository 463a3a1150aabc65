"""The flow table: where the hits of one arm come from and go to, sample by sample, against the unsteered arm.

                       arm: hit         arm: none
    unsteered: hit     stayed_bad       bad_to_good
    unsteered: none    good_to_bad      stayed_good

Any change of the text moves some samples both ways: one that was toxic once is likely not to be when it is written
again (regression to the mean). So `relieved` is read beside the placebo's, and `good_to_bad` beside `bad_to_good`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.statistics import Estimate, wilson


@dataclass(frozen=True)
class Flow:
    """Counts of pairs of samples."""

    bad_to_good: int
    good_to_bad: int
    stayed_bad: int
    stayed_good: int
    left_out: int
    """Pairs in which either has no score"""

    @property
    def pairs(self) -> int:
        """Those with a score in both arms."""
        return self.bad_to_good + self.good_to_bad + self.stayed_bad + self.stayed_good

    @property
    def unchanged(self) -> int:
        """On the same side as before."""
        return self.stayed_bad + self.stayed_good

    @property
    def relieved(self) -> Estimate:
        """Share of the unsteered hits that are none under the arm; Wilson interval."""
        return wilson(self.bad_to_good, self.bad_to_good + self.stayed_bad)

    @property
    def harmed(self) -> Estimate:
        """Share of the rest that became hits; Wilson interval."""
        return wilson(self.good_to_bad, self.good_to_bad + self.stayed_good)


def flow(arm: Sequence[float], unsteered: Sequence[float]) -> Flow:
    """From hits (1, 0, NaN: no score) of the same samples in both arms; ValueError when they differ in number."""
    pairs = [(was, now) for now, was in zip(arm, unsteered, strict=True) if not (math.isnan(now) or math.isnan(was))]
    return Flow(
        bad_to_good=sum(was > now for was, now in pairs),
        good_to_bad=sum(was < now for was, now in pairs),
        stayed_bad=sum(was == now == 1 for was, now in pairs),
        stayed_good=sum(was == now == 0 for was, now in pairs),
        left_out=len(arm) - len(pairs),
    )
