"""One flag of `tiller serve` for every field of `Settings`, whose name, type and docstring it shows."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from service.settings import Settings

Flags = dict[str, object]
"""By name of the setting; None for a flag that was not given."""


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A typer command of `command(flags, ...)`, which has its own options and those of all settings, as `flags`."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    settings = list(_parameters())

    @wraps(command)
    def run(**given: object) -> None:
        flags: Flags = {parameter.name: given.pop(parameter.name) for parameter in settings}
        command(flags, **given)

    run.__signature__ = inspect.Signature([*settings, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _parameters() -> Iterator[inspect.Parameter]:
    for name, field in Settings.model_fields.items():
        kind = _kind(field.annotation)
        flag = f"--{name.replace('_', '-')}"
        option = typer.Option(
            f"{flag}/--no-{name.removeprefix('allow_').replace('_', '-')}" if kind is bool else flag,
            help=_help(field),
            metavar="|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else None,
        )
        typed: Any = str if get_origin(kind) is Literal else kind
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[typed | None, option]
        )


def _help(field: FieldInfo) -> str:
    about = re.sub(r"`(\w+)`", _as_flag, " ".join((field.description or "").split()))
    default = field.get_default(call_default_factory=True)
    return about if default in (None, ()) or isinstance(default, bool) else f"{about} [default: {default}]"


def _as_flag(name: re.Match[str]) -> str:
    return f"--{name[1].replace('_', '-')}" if name[1] in Settings.model_fields else name[0]


def _kind(annotation: Any) -> Any:
    """What a flag's text is turned into before `Settings` checks it: the first that fits, a Literal as it is."""
    leaves = list(_leaves(annotation))
    for kind in (bool, int, float, Path):
        if kind in leaves:
            return kind
    for leaf in leaves:
        if get_origin(leaf) in (list, tuple):
            return list[str]
        if get_origin(leaf) is Literal:
            return leaf
    return str


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types of a union, without `Annotated`."""
    if get_origin(annotation) is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _leaves(part)
    else:
        yield annotation
