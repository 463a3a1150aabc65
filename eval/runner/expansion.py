"""Arms as people write them -> one `ArmSpec` each: names alone, grids, several probes held together.

    - none
    - {controller: prompt, instruction: avoid toxicity}
    - {controller: slab, upper: [0.01, 0.1, 0.5], layers: {from: 0.25}}       three arms
    - {constraints: [{probe: toxicity, upper: 0.1}, {probe: sentiment, lower: 0.9}]}

A list where one value is expected is a grid; grids of one arm multiply. Every refusal names the arm.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from eval.grid import KNOWN
from eval.runner.errors import SpecError
from eval.runner.spec import ArmSpec, ConstraintSpec, Placebos
from eval.runner.strict import shown, suggestion, validated

_SWEPT = ("lower", "upper", "strength", "max_dose", "metric", "coefficient", "source", "instruction")
"""Keys with one plain value: any list is a grid."""
_NESTED = ("layers", "gains")
"""Keys whose value may itself be a list: a list of lists (or of words, or of depths) is a grid."""
_ARM = ("name", "instruction", "constraints", "placebo")
_CONSTRAINT = tuple(ConstraintSpec.model_fields)


def expand_arms(written: Any, *, placebos: Placebos = "all") -> list[ArmSpec]:
    """Every arm of a spec's `arms`, and which of them have a placebo.

    Raises SpecError, naming the arm by its number and controller.
    """
    if not isinstance(written, list) or not written:
        raise SpecError(
            f"arms is {shown(written)}; expected a list such as [none, {{controller: slab, upper: [0.01, 0.1]}}]",
            param="arms",
        )
    grids = [_expand(entry, number) for number, entry in enumerate(written, 1)]
    if placebos == "all":
        return [arm for grid in grids for arm in grid]
    kept = 1 if placebos == "first" else 0
    return [
        arm.model_copy(update={"placebo": arm.placebo and at < kept}) for grid in grids for at, arm in enumerate(grid)
    ]


def count_arms(written: Any) -> int:
    """How many arms `expand_arms` would make, without making them; what is no arm counts as one."""
    return sum(
        prod(len(values) for values in _swept(entry).values()) if isinstance(entry, dict) else 1
        for entry in (written if isinstance(written, list) else [])
    )


def _expand(entry: Any, number: int) -> list[ArmSpec]:
    data = {"controller": entry} if isinstance(entry, str) else entry
    if not isinstance(data, dict):
        raise SpecError(f"arm {number} is {shown(entry)}; expected a name or a mapping", param=f"arms.{number - 1}")
    where = f"arm {number} ({data.get('name') or data.get('controller') or 'constraints'})"
    known = [*_ARM, *_CONSTRAINT]
    for key in data:
        if key not in known:
            raise SpecError(f"{where}: '{key}' is no key of an arm{suggestion(str(key), known)}", param=str(key))
    if "constraints" in data:
        return [_together(data, where)]
    points = [_single(point, where) for point in _grid(data)]
    if len(points) > 1 and "name" in data:
        raise SpecError(f"{where}: one name for {len(points)} arms of a grid; leave name out", param="name")
    return points


def _grid(data: dict[str, Any]) -> list[dict[str, Any]]:
    swept = _swept(data)
    return [data | dict(zip(swept, chosen, strict=True)) for chosen in product(*swept.values())]


def _swept(data: dict[str, Any]) -> dict[str, list[Any]]:
    """The keys of an arm that hold a grid, with its values."""
    return {
        key: value
        for key, value in data.items()
        if isinstance(value, list)
        and value
        and (key in _SWEPT or (key in _NESTED and not all(isinstance(entry, int | float) for entry in value)))
    }


def _single(data: dict[str, Any], where: str) -> ArmSpec:
    controller = data.get("controller")
    if controller is None:
        raise SpecError(f"{where}: no controller; expected one of {', '.join(KNOWN)}", param="controller")
    _check_controller(controller, where)
    arm = {key: data[key] for key in _ARM if key in data}
    rest = {key: value for key, value in data.items() if key not in _ARM}
    if controller not in ("none", "prompt"):
        if "instruction" in data:
            raise SpecError(f"{where}: only a prompt arm has an instruction", param="instruction")
        return validated(ArmSpec, arm | {"constraints": [validated(ConstraintSpec, rest, where=where)]}, where=where)
    surplus = [key for key in rest if key != "controller"]
    if surplus:
        raise SpecError(f"{where}: it steers nothing, so it has no {surplus[0]}", param=surplus[0])
    if (controller == "prompt") != ("instruction" in data):
        raise SpecError(f"{where}: a prompt arm has an instruction, and no other has", param="instruction")
    return validated(ArmSpec, arm, where=where)


def _together(data: dict[str, Any], where: str) -> ArmSpec:
    alone = [key for key in data if key not in ("name", "constraints", "placebo")]
    if alone:
        raise SpecError(f"{where}: '{alone[0]}' belongs inside its constraints", param=alone[0])
    written = data["constraints"]
    if not isinstance(written, list) or not written or not all(isinstance(entry, dict) for entry in written):
        raise SpecError(f"{where}: constraints is {shown(written)}; expected a list of mappings", param="constraints")
    held = []
    for index, entry in enumerate(written):
        _check_controller(entry.get("controller", "slab"), where)
        held.append(validated(ConstraintSpec, {"controller": "slab"} | entry, where=f"{where}, constraint {index + 1}"))
    return validated(ArmSpec, data | {"constraints": held}, where=where)


def _check_controller(controller: Any, where: str) -> None:
    if controller == "random":
        raise SpecError(f"{where}: placebos are added to every steered arm by themselves; leave it out", param="arms")
    if controller not in KNOWN:
        raise SpecError(
            f"{where}: {shown(controller)} is no controller{suggestion(str(controller), KNOWN)}", param="controller"
        )
