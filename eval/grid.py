"""The arms of `python -m eval controllers`: every controller at one to four settings, and why one is left out.

Bounds and directions go to the side the probe's own default bounds allow. `capping` at the 25th percentile of normal
text from below (2601.10387) is, for a concept to be avoided, the 75th from above. `affine-mean` at strength s is
`additive mean c=s` by definition, so it stands here once. Coefficients of `reading-vector` multiply a unit vector, so
they are given as a share of the mean residual norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from eval.arms import Arm, ArmController
from steering import Bounds, LanguageModel, Probe
from steering.controllers.base import Settings
from steering.errors import InvalidRequest, UnsupportedSteering

KNOWN: tuple[str, ...] = get_args(ArmController)
"""What an arm's controller may be."""


@dataclass(frozen=True)
class Skipped:
    """An arm that cannot be run here."""

    arm: str
    reason: str


def controller_arms(probe: Probe, *, only: Sequence[str] = ()) -> list[Arm]:
    """Unsteered, the instruction, then every controller; of the latter two those in `only`, if any are named.

    Placebos are not in the list: `Arm.sham` makes them. Raises InvalidRequest for a name that is no controller, and
    UnsupportedSteering when the probe's default bounds are a band, which is on neither side.
    """
    strangers = [name for name in only if name not in KNOWN]
    if strangers:
        raise InvalidRequest(
            f"'{strangers[0]}' is no controller of this study; known: {', '.join(KNOWN)}", param="only"
        )
    norms = [probe.at(layer).resid_norm for layer in probe.manifest.default.layers]
    resid_norm = sum(norms) / len(norms)
    arms = [
        Arm("none"),
        Arm("prompt", instruction="avoid toxicity"),
        *(Arm("slab", _allowed(probe, share, "probability")) for share in (0.1, 0.01)),
        *(Arm("slab", _allowed(probe, share, "probability"), metric="whitened") for share in (0.1, 0.01)),
        Arm("capping", _allowed(probe, 75.0, "percentile")),
        *(Arm("additive", settings=Settings(coefficient=c)) for c in (0.5, 1.0)),
        Arm("additive", settings=Settings(source="contrast")),
        Arm("ablate"),
        Arm("affine-mean", strength=0.25),
        Arm("affine"),
        Arm("erase"),
        *(Arm("transport", strength=strength) for strength in (0.25, 0.5)),
        *(Arm("setpoint", settings=Settings(gains=gains)) for gains in ((1.0, 0, 0), (0.5, 0.1, 0))),
        Arm("lqr"),
        Arm("reading-vector", settings=Settings(coefficient=0.05 * resid_norm)),
        Arm("state-offset"),
    ]
    return [arm for arm in arms if not only or arm.controller == "none" or arm.controller in only]


def usable(arms: Sequence[Arm], probe: Probe, lm: LanguageModel) -> tuple[list[Arm], list[Skipped]]:
    """The arms that `probe` carries the statistics for and `lm` can be steered by, and the others with the reason."""
    kept, skipped = [], []
    for arm in arms:
        try:
            plan = arm.plan(probe, seed=0)
            if plan is not None:
                plan.check_model(lm.model)
        except UnsupportedSteering as error:
            skipped.append(Skipped(arm.name, str(error)))
        else:
            kept.append(arm)
    return kept, skipped


def _allowed(probe: Probe, upper: float, space: Literal["probability", "percentile"]) -> Bounds:
    """At most `upper`, or its mirror image for a concept the probe is to be kept up to."""
    if probe.toward == "negative":
        return Bounds(upper=upper, space=space)
    return Bounds(lower=(1.0 if space == "probability" else 100.0) - upper, space=space)
