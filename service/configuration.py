"""From flags, environment and file to `Settings`. Precedence: flag > environment > file > default.

    flag          --max-queue 512
    environment   TILLER_MAX_QUEUE=512
    file          max_queue = 512       in the TOML file named by --config or TILLER_CONFIG; names as in `Settings`

`Configuration.as_toml` tells what came of it and where each value came from; the text is itself such a file.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from service.settings import Settings
from steering.errors import InvalidRequest

Origin = Literal["flag", "environment", "file", "default"]

_PREFIX = "TILLER_"
_OTHERS = {"TILLER_API_KEY", "TILLER_HOME", "TILLER_SCORER_TOKEN"}
"""Variables that are no settings of the server."""


@dataclass(frozen=True)
class Configuration:
    """The settings of a server, and where each of them was set."""

    settings: Settings
    origins: Mapping[str, Origin]
    """By name; what is not in it is at its default."""

    def as_toml(self) -> str:
        """All settings as a file that `--config` takes; those that are unset, as comments."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        for name, value in self.settings.model_dump(mode="json").items():
            origin = self.origins.get(name, "default")
            if name == "config":
                yield f"# read from {'no file' if value is None else value}"
            else:
                yield f"# {name} is unset" if value is None else f"{name} = {_toml(value)}  # {origin}"


def configure(flags: Mapping[str, object]) -> Configuration:
    """Settings from `flags` that are not None, the environment and the file these name.

    Raises InvalidRequest with one line that names the flag, the variable or the key.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        environment = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise InvalidRequest(f'a list in the environment is written as JSON, as in \'["a", "b"]\': {error}') from None
    path = given.get("config", environment.get("config"))
    file = {} if path is None else _read(Path(str(path)))
    sources: tuple[tuple[Origin, Mapping[str, Any]], ...]
    sources = (("file", file), ("environment", environment), ("flag", given))
    origins: dict[str, Origin] = {name: origin for origin, source in sources for name in source}
    try:
        settings = Settings(**{**file, **environment, **given})
    except ValidationError as error:
        raise _refusal(error, file=path, origins=origins) from None
    return Configuration(settings, origins)


def read_settings(**flags: object) -> Settings:
    """The settings alone of `configure`."""
    return configure(flags).settings


def misspelt_variables() -> list[str]:
    """A line for every variable of the environment that looks like a setting and is none.

    They are not refused: whoever starts us may set variables of that prefix for reasons of its own (Kubernetes does).
    """
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHERS
    unknown = sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in known)
    near = ((name, difflib.get_close_matches(name, known, n=1, cutoff=0.85)) for name in unknown)
    return [
        f"{name} in the environment is no setting and has no effect; is it {match[0]}?" for name, match in near if match
    ]


def _read(path: Path) -> dict[str, Any]:
    """The keys of a configuration file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(
            f"the configuration {path} cannot be read: {error.strerror}; give a TOML file by --config (TILLER_CONFIG)",
            param="config",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"the configuration {path} is not TOML: {error}; write lines such as port = 9000", param="config"
        ) from None
    known = [name for name in Settings.model_fields if name != "config"]
    for key in document:
        if key not in known:
            near = difflib.get_close_matches(key.replace("-", "_").lower(), known, n=1)
            way_out = f"is it {near[0]}?" if near else "tiller serve --print-config lists those there are"
            raise InvalidRequest(f"{key} in {path} is no setting; {way_out}", param=key)
    return document


def _refusal(error: ValidationError, *, file: object, origins: Mapping[str, Origin]) -> InvalidRequest:
    first = error.errors()[0]
    if not first["loc"]:
        return InvalidRequest(first["msg"].removeprefix("Value error, "))
    name = str(first["loc"][0])
    where = (
        f"{name} in {file}" if origins.get(name) == "file" else f"--{name.replace('_', '-')} ({_PREFIX}{name.upper()})"
    )
    return InvalidRequest(f"{where} is {first['input']!r}: {first['msg']}", param=name)


def _toml(value: Any) -> str:
    """A plain value; JSON's strings, numbers, booleans and lists are TOML's too."""
    return json.dumps(value, ensure_ascii=False)
