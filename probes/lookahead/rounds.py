"""One round: write, choose states, read them and label them, under one policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from probes.errors import FitError
from probes.lookahead.labeller import Labeller
from probes.lookahead.prompts import Prompts
from probes.lookahead.recipe import WARNINGS, Ahead
from probes.lookahead.samples import Round
from probes.lookahead.states import read_states
from probes.lookahead.windows import choose_places, labels, scores, threshold
from probes.lookahead.writing import write
from probes.training.train import Progress
from steering.bounds import Bounds
from steering.constraint import Constraint
from steering.models import LanguageModel
from steering.plan import Plan
from steering.probe import Probe


def write_round(
    lm: LanguageModel,
    prompts: Prompts,
    ahead: Ahead,
    labeller: Labeller,
    layers: tuple[int, ...],
    folder: Path,
    *,
    plan: Plan | None,
    cut: float | None,
    progress: Progress,
) -> tuple[Round, float]:
    """The labelled states of one policy, and the threshold in force.

    `cut` is that of an earlier round; None settles it from this round's scores. Raises FitError when nothing was
    written, HarvestError and InvalidRequest as the steps say.
    """
    kind = "" if plan is None else ", steered"
    advance = progress.stage(f"writing{kind}", len(prompts) * ahead.pen.continuations)
    texts = write(lm, prompts, folder / "texts", ahead.pen, plan=plan, advance=advance)
    places = choose_places(texts, cap=ahead.states, seed=ahead.pen.seed)
    if not len(places):
        raise FitError(
            "the model ended every text at once, so there is no state to read; give other --prompts", param="prompts"
        )
    read: Callable[[int], None] = progress.stage(f"reading states{kind}", len(texts))
    states = read_states(lm, texts, places, folder / "states", layers, plan=plan, dtype=ahead.store, advance=read)
    by_warning = {
        warning: scores(texts, places, labeller, lm.tokenizer, horizon=ahead.rule.horizon, warning=warning)
        for warning in WARNINGS
    }
    cut = threshold(by_warning[0], ahead.rule) if cut is None else cut
    found = Round(
        states=states,
        prompt=np.array([text.prompt for text in texts])[places[:, 0]],
        labels={warning: labels(score, threshold=cut) for warning, score in by_warning.items()},
        texts=len(texts),
    )
    progress.say(
        f"{len(places)} states of {len(texts)} texts{kind}; {found.base_rate:.1%} of windows score above {cut:.3f}"
    )
    return found, cut


def plan_of(probe: Probe) -> Plan:
    """What a request gets that names the probe and says nothing more."""
    default = probe.manifest.default
    bounds = Bounds(default.lower, default.upper, default.space)
    return Plan((Constraint(probe, bounds, metric=default.metric),))
