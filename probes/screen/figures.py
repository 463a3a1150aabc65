"""From the scores and divergences of all arms to the rows of a screen.

    effect      = mean over prompts of the change of the score toward the allowed side, steered against unsteered
    difference  = effect - placebo effect
    per KL      = effect / KL,  KL the mean next-token divergence on neutral text, at least FLOOR

A continuation without a word to score counts as no change, so that silence is never a success; a prompt whose
unsteered continuation has none is left out of every set alike. A set beats its placebo when its effect is above 0 (a
placebo that does harm is not enough), the 95% bootstrap interval of the difference lies above 0 and its sign-flip p,
after Holm's correction for all sets tried, is below 0.05.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probes.errors import ScreenError
from probes.screen.keeping import Kept
from probes.screen.question import Arm, Layers, Question
from probes.screen.resampling import Numbers, holm, percentile_interval, resampled_means, sign_flip_p
from steering.manifest import ScreenRow

FLOOR = 1e-6
"""Nats. A set that leaves neutral text alone has no finite effect per KL; this keeps the figure a number."""
ALPHA = 0.05
_Z95 = 1.96


@dataclass(frozen=True)
class Figures:
    """One row, and what the manifest has no room for."""

    row: ScreenRow
    p: float
    """Sign-flip, one-sided, before correction"""
    p_holm: float
    unscored: int
    """Steered continuations without a word to score"""
    placebo_unscored: int


def summarise(question: Question, kept: Kept, sets: Sequence[tuple[str, Layers]]) -> list[Figures]:
    """The figures of measured sets, (role, layers) each, in their order; the same layers under two roles count once.

    Raises ScreenError when fewer than half of the unsteered continuations can be scored.
    """
    distinct = list(dict.fromkeys(layers for _, layers in sets))
    before = np.array(kept[Arm("unsteered")].scores)
    usable = ~np.isnan(before)
    if 2 * usable.sum() < len(before):
        raise ScreenError(
            f"the scorer {question.scorer.card.name} finds a word to score in {int(usable.sum())} of {len(before)} "
            "unsteered continuations; take longer ones (--new-tokens) or another scorer",
            param="scorer",
        )
    steered, lost = _changes(question, kept, [Arm("steered", layers) for layers in distinct], before)
    placebo, placebo_lost = _changes(question, kept, [Arm("placebo", layers) for layers in distinct], before)
    steered, placebo = steered[:, usable], placebo[:, usable]
    kl = np.array([kept[Arm("steered", layers)].kl for layers in distinct])
    placebo_kl = np.array([kept[Arm("placebo", layers)].kl for layers in distinct])
    drawn, placebo_drawn = (resampled_means(values, seed=question.seed) for values in (steered, placebo))
    ratio = drawn / np.maximum(resampled_means(kl, seed=question.seed + 1), FLOOR)
    effects, per_kl_low = percentile_interval(drawn), percentile_interval(ratio)
    differences = percentile_interval(drawn - placebo_drawn)
    p_values = sign_flip_p(steered - placebo, seed=question.seed + 2)
    adjusted = holm(p_values)
    found = {}
    for at, layers in enumerate(distinct):
        effect, cost = float(steered[at].mean()), float(kl[at].mean())
        placebo_effect = float(placebo[at].mean())
        found[layers] = Figures(
            row=ScreenRow(
                layers=list(layers),
                role="",
                effect=effect,
                effect_interval=effects[at],
                kl=cost,
                per_kl=effect / max(cost, FLOOR),
                per_kl_interval=per_kl_low[at],
                placebo_effect=placebo_effect,
                placebo_kl=float(placebo_kl[at].mean()),
                difference=effect - placebo_effect,
                difference_interval=differences[at],
                beats_placebo=effect > 0 and differences[at][0] > 0 and adjusted[at] < ALPHA,
            ),
            p=p_values[at],
            p_holm=adjusted[at],
            unscored=lost[at],
            placebo_unscored=placebo_lost[at],
        )
    return [_in_role(found[layers], role) for role, layers in sets]


def require_power(question: Question, kept: Kept, *, sets: int) -> None:
    """Raise ScreenError when no result at all could be significant, so that a screen would only seem to find nothing.

    With n prompts the smallest sign-flip p is 2^-n, which Holm multiplies by the number of sets.
    """
    usable = int((~np.isnan(np.array(kept[Arm("unsteered")].scores))).sum())
    if sets * 2.0**-usable >= ALPHA:
        raise ScreenError(
            f"{usable} of {len(question.prompts)} prompts can be scored, too few for any of up to {sets} sets of "
            f"layers to differ from its placebo after correction (p at least {sets * 2.0**-usable:.2g}); give a larger "
            "--n, or fewer --layers",
            param="n",
        )


def choose(rows: Sequence[ScreenRow]) -> list[int]:
    """The default layers: of the sets that beat their placebo, those that do as much as the best one to within its
    standard error, and of these the one whose interval of effect per KL begins highest. Empty when none beats it.

    The one-standard-error rule of Breiman et al. (1984): the cheapest that cannot be told from the best. A laxer one
    would take a layer that costs next to nothing and does little.
    """
    causal = [row for row in rows if row.beats_placebo]
    if not causal:
        return []
    best = max(causal, key=lambda row: row.effect)
    low, high = best.effect_interval
    enough = best.effect - (high - low) / (2 * _Z95)
    return list(max((row for row in causal if row.effect >= enough), key=lambda row: row.per_kl_interval[0]).layers)


def _changes(question: Question, kept: Kept, arms: Sequence[Arm], before: Numbers) -> tuple[Numbers, list[int]]:
    """(arms, prompts) changes toward the allowed side, and how many continuations of each arm had no word."""
    after = np.array([kept[arm].scores for arm in arms])
    lost = np.isnan(after)
    return question.sign * np.where(lost, 0.0, after - before), lost.sum(axis=-1).tolist()


def _in_role(figures: Figures, role: str) -> Figures:
    return Figures(
        row=figures.row.model_copy(update={"role": role}),
        p=figures.p,
        p_holm=figures.p_holm,
        unscored=figures.unscored,
        placebo_unscored=figures.placebo_unscored,
    )
