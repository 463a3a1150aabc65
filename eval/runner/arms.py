"""Arms ready to run: every default made explicit, each with a name, and each steered one with its placebo.

A placebo is the same constraints with controller `random`, asked how far the arm's rule would go. `none`, `prompt` and
`state-offset` move no residual, so they have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from eval.runner.errors import SpecError
from eval.runner.held import Held, held_name
from eval.runner.layers import ProbeFacts, layers_of
from eval.runner.spec import ArmSpec, ConstraintSpec
from steering.controllers.prompt import INSTRUCTIONS
from steering.controllers.table import BOUNDED, ControllerName, RuleName
from steering.errors import UnknownProbe
from steering.plan import Plan
from steering.probe import Probe

NONE = "none"

Find = Callable[[str], ProbeFacts]


@dataclass(frozen=True)
class RunArm:
    """One way of writing the continuations."""

    name: str
    instruction: str | None = None
    """The sentence before the prompt"""
    constraints: tuple[Held, ...] = ()
    placebo_of: str | None = None

    @property
    def steered(self) -> bool:
        """Whether anything is done to the model's states."""
        return bool(self.constraints)

    def plan(self, probes: Mapping[str, Probe], *, seed: int) -> Plan | None:
        """The plan of one row; `seed` picks a placebo's directions. None when nothing is steered."""
        if not self.constraints:
            return None
        return Plan(tuple(held.constraint(probes[held.probe], seed=seed) for held in self.constraints))

    def to_json(self) -> dict[str, Any]:
        """Everything that defines it, as plain values."""
        return asdict(self) | {"constraints": [asdict(held) for held in self.constraints]}


def ready_arms(
    specs: Sequence[ArmSpec], *, find: Find, only_probe: str | None, num_hidden_layers: int
) -> tuple[list[RunArm], list[str]]:
    """The arms to run, unsteered first and each placebo after its arm, and what was left out on request, in sentences.

    `find` gives the `ProbeFacts` of a name and raises UnknownProbe. Raises SpecError, naming the arm.
    """
    arms: list[RunArm] = [RunArm(NONE)]
    left_out, alone = [], []
    for spec in specs:
        try:
            arm = _ready(spec, find=find, only_probe=only_probe, depth=num_hidden_layers)
        except (SpecError, UnknownProbe) as error:
            named = spec.name or " and ".join(constraint.controller for constraint in spec.constraints)
            raise SpecError(f"arm '{named}': {error}", param=getattr(error, "param", None) or "probe") from None
        if arm == arms[0]:
            continue
        arms.append(arm)
        if arm.steered and all(held.controller != "state-offset" for held in arm.constraints):
            if spec.placebo:
                arms.append(placebo(arm))
            else:
                alone.append(f"'{arm.name}'")
    if alone:
        named = alone[0] if len(alone) == 1 else f"{', '.join(alone[:-1])} and {alone[-1]}"
        left_out.append(f"the placebo of {named} was left out on request: the effect may be any push's")
    if not any(arm.instruction for arm in arms):
        left_out.append("no arm instructs the model in its prompt, the baseline that steering has to beat")
    names = [arm.name for arm in arms]
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise SpecError(f"two arms are called '{twice}'; remove one, or give it a name", param="arms")
    return arms, left_out


def placebo(arm: RunArm) -> RunArm:
    """The same-norm placebo of a steered arm."""
    sham = tuple(replace(held, controller="random", shadow=cast(RuleName, held.controller)) for held in arm.constraints)
    return RunArm(f"random as {arm.name}", constraints=sham, placebo_of=arm.name)


def _ready(spec: ArmSpec, *, find: Find, only_probe: str | None, depth: int) -> RunArm:
    if spec.instruction is not None:
        text = INSTRUCTIONS.get(spec.instruction, spec.instruction)
        short = spec.instruction if len(spec.instruction) <= 32 else f"{spec.instruction[:31]}…"
        return RunArm(spec.name or f"prompt ({short})", instruction=text)
    held = []
    for constraint in spec.constraints:
        name = constraint.probe or only_probe
        if name is None:
            raise SpecError("it names no probe, and there are several; set `probe` there or in the spec", param="probe")
        facts = find(name)
        held.append(_held(constraint, facts, depth=depth))
    if not held:
        return RunArm(spec.name or NONE)
    named = " and ".join(
        held_name(one, of, several=len(held) > 1, asked=constraint.probe)
        for one, of, constraint in zip(held, (find(one.probe) for one in held), spec.constraints, strict=True)
    )
    return RunArm(spec.name or named, constraints=tuple(held))


def _held(spec: ConstraintSpec, facts: ProbeFacts, *, depth: int) -> Held:
    assert spec.controller not in ("none", "prompt"), "they hold nothing"
    bounded = spec.controller in BOUNDED
    lower, upper, space = spec.lower, spec.upper, spec.space
    if bounded and lower is None and upper is None:
        if "space" in spec.model_fields_set and space != facts.default.space:
            raise SpecError(
                f"it says space '{space}' but no bound, and the default bounds of {facts.id} are "
                f"in '{facts.default.space}'; give lower or upper",
                param="space",
            )
        lower, upper, space = facts.default.lower, facts.default.upper, facts.default.space
    if not bounded and (lower is not None or upper is not None or "space" in spec.model_fields_set):
        raise SpecError("the controller holds no bounds; leave lower, upper and space out", param="lower")
    start, stop = spec.generation or (0, None)
    proportional, integral, derivative = spec.gains
    return Held(
        probe=facts.id,
        controller=cast(ControllerName, spec.controller),
        shadow="slab",
        lower=lower,
        upper=upper,
        space=space,
        layers=layers_of(spec.layers, facts, depth=depth),
        prompt=spec.prompt or ("none" if spec.controller == "state-offset" else "last"),
        generation=(start or 0, stop),
        strength=spec.strength,
        max_dose=spec.max_dose,
        metric=spec.metric or (facts.default.metric if bounded else None),
        coefficient=spec.coefficient,
        gains=(proportional, integral, derivative),
        source=spec.source,
        piecewise=spec.piecewise,
    )
