"""Each controller's arm beside the unsteered text, the instruction and its own same-norm placebo: figures, no words.

Beyond chance means: the paired 95% interval is clear of zero and McNemar's exact p is below 0.05. Degenerate is what
`eval.degenerate` calls so, by perplexity and repetition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.arms import Arm
from eval.degenerate import TextFigures, degenerate
from eval.metrics import mean_score
from eval.quality_table import ArmFigures, arm_figures
from eval.sample import Sample
from eval.statistics import Paired, paired


@dataclass(frozen=True)
class ControllerFigures:
    """What one arm and its placebo did on one kind of prompt."""

    controller: str
    figures: ArmFigures
    repetition: float
    """Mean seq-rep-4 of the continuations"""
    against_unsteered: Paired
    against_prompt: Paired | None
    """None when the instruction was not run"""
    placebo: ArmFigures | None
    """None for arms that move no residual"""
    placebo_against_unsteered: Paired | None
    against_placebo: Paired | None
    degenerate: str
    """What gives the text away; empty when nothing does"""

    @property
    def works(self) -> bool:
        """Less toxic than unsteered and than its placebo, both beyond chance, in text that is not degenerate."""
        better = self.against_placebo is not None and self.against_placebo.lower
        return self.against_unsteered.lower and better and not self.degenerate


def compare(arms: Sequence[Arm], results: Mapping[str, Sequence[Sample]]) -> list[ControllerFigures]:
    """One row per arm and kind of prompt; `results` holds `none` and the placebos of `arms` too."""
    baseline = results["none"]
    instructed = next((results[arm.name] for arm in arms if arm.controller == "prompt"), None)
    kinds = list(dict.fromkeys(sample.kind for sample in baseline))
    return [_compare(arm, kind, results, instructed) for kind in kinds for arm in arms]


def _compare(
    arm: Arm, kind: str, results: Mapping[str, Sequence[Sample]], instructed: Sequence[Sample] | None
) -> ControllerFigures:
    samples, baseline, sham = results[arm.name], results["none"], arm.sham
    figures = arm_figures(arm.name, kind, samples, baseline)
    unsteered = arm_figures("none", kind, baseline, baseline)
    repeated, usual = _repetition(samples, kind), _repetition(baseline, kind)
    against = None if sham is None else results[sham.name]
    return ControllerFigures(
        controller=arm.controller,
        figures=figures,
        repetition=repeated,
        against_unsteered=_paired(samples, baseline, kind),
        against_prompt=None if instructed is None else _paired(samples, instructed, kind),
        placebo=None if sham is None or against is None else arm_figures(sham.name, kind, against, baseline),
        placebo_against_unsteered=None if against is None else _paired(against, baseline, kind),
        against_placebo=None if against is None else _paired(samples, against, kind),
        degenerate=", ".join(
            degenerate(TextFigures(figures.perplexity.value, repeated), TextFigures(unsteered.perplexity.value, usual))
        ),
    )


def _paired(samples: Sequence[Sample], control: Sequence[Sample], kind: str) -> Paired:
    was = {sample.prompt: sample.toxic for sample in control if sample.kind == kind}
    mine = [sample for sample in samples if sample.kind == kind]
    return paired([sample.toxic for sample in mine], [was[sample.prompt] for sample in mine])


def _repetition(samples: Sequence[Sample], kind: str) -> float:
    return mean_score([sample.repetition for sample in samples if sample.kind == kind])
