"""The specs that ship with the evaluation, as a caller may choose them: read from its folder, without importing it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import yaml


@dataclass(frozen=True)
class ReadySpec:
    """What a list of them says."""

    name: str
    about: str
    needs_data: bool
    """Whether its texts are in files, which do not ship with it"""


@cache
def ready_specs() -> Mapping[str, ReadySpec]:
    """Name -> spec; empty where the evaluation is not installed."""
    home = eval_home()
    found = {path.stem: _read(path) for path in sorted((home / "specs").glob("*.yaml"))} if home else {}
    return MappingProxyType(found)


def eval_home() -> Path | None:
    """The folder of the package `eval`; None where it is not installed."""
    located = importlib.util.find_spec("eval")
    places = (located.submodule_search_locations or []) if located else []
    return next((Path(place) for place in places), None)


def _read(path: Path) -> ReadySpec:
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    return ReadySpec(path.stem, written.get("about", ""), any("file" in source for source in written["prompts"]))
