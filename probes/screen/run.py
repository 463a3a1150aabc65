"""One screen from beginning to end: single layers first, then the sets that their figures suggest.

The growing sets are ordered by figures of the same prompts, which flatters their effect per KL a little; whether a set
beats its placebo is judged on continuations written anew under both. A screen of one scorer shows what that scorer
sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probes.screen.divergence import Divergence
from probes.screen.figures import Figures, choose, require_power, summarise
from probes.screen.keeping import Kept, Measured, write_whole
from probes.screen.question import Arm, Layers, Question
from probes.screen.sets import GROWING, compounds, singles
from probes.screen.writing import Writer
from steering.manifest import Screen

RESULT = "screen.json"

OnArm = Callable[[int], None]


@dataclass(frozen=True)
class Screened:
    """What a screen found."""

    screen: Screen
    figures: list[Figures]
    """In the order of the rows of `screen`"""
    unscored: int
    """Unsteered continuations without a word to score; their prompts are left out"""

    def to_json(self) -> dict[str, Any]:
        """The screen as it stands in a manifest, with p-values and counts beside each row."""
        details = [{name: value for name, value in asdict(found).items() if name != "row"} for found in self.figures]
        return {"screen": self.screen.model_dump(), "details": details, "unscored": self.unscored}


def expected_arms(layers: Sequence[int]) -> int:
    """How many arms `run` will measure at most."""
    return 1 + 2 * (len(layers) + sum(size < len(layers) for size in GROWING) + 2)


def run(question: Question, layers: Sequence[int], out: Path, *, on_arm: OnArm = lambda done: None) -> Screened:
    """Screen `layers` of the probe of `question`, keep every arm in `out`, and write `out`/screen.json.

    `on_arm` is told of each arm measured or read back. Raises ScreenError.
    """
    kept = Kept(out, question)
    measure = _Measure(question, kept, on_arm)
    measure([Arm("unsteered")])
    require_power(question, kept, sets=(expected_arms(layers) - 1) // 2)
    alone = singles(layers)
    measure(_arms(alone))
    further = compounds(question.probe, [found.row for found in summarise(question, kept, alone)])
    measure(_arms(further))
    figures = summarise(question, kept, [*alone, *further])
    rows = [found.row for found in figures]
    screened = Screened(
        screen=Screen(
            scorer=f"{question.scorer.card.name} {question.scorer.card.revision}",
            metric=question.metric,
            lower=question.bounds.lower,
            upper=question.bounds.upper,
            space=question.bounds.space,
            prompts=len(question.prompts),
            neutral=len(question.neutral),
            new_tokens=question.new_tokens,
            seed=question.seed,
            prompts_sha256=question.prompts_sha256,
            rows=rows,
            chosen=choose(rows),
        ),
        figures=figures,
        unscored=sum(score != score for score in kept[Arm("unsteered")].scores),
    )
    write_whole(out / RESULT, json.dumps(screened.to_json(), indent=2, allow_nan=False) + "\n")
    return screened


def _arms(sets: Sequence[tuple[str, Layers]]) -> list[Arm]:
    return [arm for _, layers in sets for arm in (Arm("steered", layers), Arm("placebo", layers))]


class _Measure:
    """Measures arms that are not kept yet; the model reads the prompts only if there are any."""

    def __init__(self, question: Question, kept: Kept, on_arm: OnArm) -> None:
        self._question, self._kept, self._on_arm = question, kept, on_arm
        self._tools: tuple[Writer, Divergence] | None = None
        self._done: set[Arm] = set()

    def __call__(self, arms: Sequence[Arm]) -> None:
        for arm in arms:
            if arm in self._done:
                continue
            if arm not in self._kept:
                self._kept.add(arm, self._measured(arm))
            self._done.add(arm)
            self._on_arm(1)

    def _measured(self, arm: Arm) -> Measured:
        if self._tools is None:
            self._tools = Writer(self._question), Divergence(self._question)
        writer, divergence = self._tools
        scores = self._question.scorer.score(writer.write(arm))
        return Measured(scores, [0.0] * len(self._question.neutral) if not arm.layers else divergence.of(arm))
