"""Spec files: YAML or JSON on disk, or one of the ready specs, read strictly.

Beyond YAML 1.1: `1e-3` is a number, and a key that stands twice is an error instead of the last one winning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.runner.confined import refuse_reach
from eval.runner.errors import SpecError
from eval.runner.expansion import expand_arms
from eval.runner.spec import PromptSource, Spec
from eval.runner.strict import suggestion, validated

READY = Path(__file__).parents[1] / "specs"
"""The specs that ship with the package."""


@dataclass(frozen=True)
class ReadSpec:
    """A spec and where its paths start."""

    spec: Spec
    folder: Path
    """Of the spec file"""
    data: Path
    """Of the data files"""
    source: str
    """As it was asked for"""
    ready: bool
    """Whether it ships with the package"""

    def path(self, name: str) -> Path:
        """The file a spec calls `name`: below `data`, or below the spec's own folder if it begins with a dot."""
        return (self.folder if name.startswith(("./", "../")) else self.data) / name


def ready_specs() -> dict[str, Path]:
    """Name -> file."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))}


def read_spec(
    source: str,
    *,
    data: Path | None = None,
    n: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    confined: bool = False,
    no_model: bool = False,
) -> ReadSpec:
    """The spec in the file `source`, or the ready one of that name; `overrides` replace top-level keys.

    No prompt set (or stratum, where the spec says n of each) has more than `n`. A `confined` spec is a stranger's: see
    `eval.runner.confined`. `no_model` takes back the model a spec names.

    Raises SpecError for what is absent, no YAML, or not a spec, naming the key.
    """
    ready = ready_specs()
    path = Path(source)
    shipped = not path.is_file() and source in ready
    path = ready[source] if shipped else path
    if not path.is_file():
        raise SpecError(f"there is no spec file {source}, and no ready spec of that name{suggestion(source, ready)}")
    written = _load(path)
    if confined:
        refuse_reach(written, data=data)
    # What the command line says is part of the spec as it was run.
    if no_model:
        written.pop("model", None)
    written |= {key: value for key, value in (overrides or {}).items() if value is not None}
    written.setdefault("name", path.stem)
    if "model" not in written and "server" not in written:
        written["model"] = "smollm2-135m-instruct"
    spec = validated(Spec, written | {"arms": expand_arms(written.get("arms"))}, where=path.name)
    spec = spec.model_copy(update={"arms": expand_arms(written["arms"], placebos=spec.placebos)})
    if n is not None:
        spec = spec.model_copy(update={"prompts": [_at_most(n, prompts) for prompts in spec.prompts]})
    root = data if data is not None else path.parent / (spec.data or ".")
    return ReadSpec(spec, path.parent, root, source, shipped)


def _at_most(n: int, source: PromptSource) -> PromptSource:
    key, asked = ("n_per_stratum", source.n_per_stratum) if source.n_per_stratum else ("n", source.n)
    if source.texts is not None and asked is None:
        asked = len(source.texts)
    return source.model_copy(update={key: min(n, asked or n)})


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader with YAML 1.2's numbers, and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for at, key in enumerate(keys) if key in keys[:at]]
        if twice:
            raise SpecError(f"line {node.start_mark.line + 1}: the key '{twice[0]}' stands twice; keep one")
        found: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return found


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _load(path: Path) -> dict[str, Any]:
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        text = path.read_text(encoding="utf-8")
        written = json.loads(text) if kind == "JSON" else yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"{path.name} is no {kind}: {reason}") from None
    if not isinstance(written, dict) or not all(isinstance(key, str) for key in written):
        raise SpecError(
            f"{path.name} is no mapping of keys to values; see a ready one with: tiller eval specs --show quick"
        )
    return written
