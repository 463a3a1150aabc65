"""A spec from a stranger: what it may reach, and how much it may ask for. `tiller eval run --confined` reads one so.

It reads texts of its own and files below `--data`, and nothing else: no other path, no model, server, probes or data
folder, and only judges that need neither a file, an address nor a download.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.runner.errors import SpecError
from eval.runner.expansion import count_arms
from eval.runner.strict import shown
from steering.scorers.table import SCORERS

ARMS = 128
"""As many a spec may have, those of grids included."""
_OURS = ("model", "server", "probes", "data")
"""Keys that whoever starts the run decides."""


def refuse_reach(written: Mapping[str, Any], *, data: Path | None) -> None:
    """Raise SpecError, naming the key, when a spec as it was written reaches beyond `data` or asks for too many arms.

    What is no spec at all passes: validation says so in better words.
    """
    for key in _OURS:
        if key in written:
            raise SpecError(f"{key} is not for this spec to say: the server decides; leave it out", param=key)
    for key, value in _files(written):
        _check_file(key, value, data)
    scorers = written.get("scorers")
    for at, scorer in enumerate(scorers if isinstance(scorers, list) else []):
        name = scorer.get("name") if isinstance(scorer, dict) else None
        if isinstance(name, str) and name not in SCORERS:
            raise SpecError(
                f"scorers.{at}.name is {shown(name)}; expected one of {', '.join(SCORERS)}: others need a file, an "
                "address or a download, and are for `tiller eval rescore`",
                param=f"scorers.{at}.name",
            )
    arms = count_arms(written.get("arms"))
    if arms > ARMS:
        raise SpecError(f"arms has {arms} of them, grids taken apart; expected at most {ARMS}", param="arms")


def _files(written: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that would be opened."""
    prompts = written.get("prompts")
    for at, source in enumerate(prompts if isinstance(prompts, list) else []):
        if isinstance(source, dict):
            yield f"prompts.{at}.file", source.get("file")
            yield from _each(f"prompts.{at}.exclude", source.get("exclude"))
    neutral = written.get("neutral")
    if isinstance(neutral, dict):
        yield "neutral.file", neutral.get("file")
    yield from _each("train_data", written.get("train_data"))


def _each(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    for at, entry in enumerate(value if isinstance(value, list) else []):
        yield f"{key}.{at}", entry


def _check_file(key: str, name: Any, data: Path | None) -> None:
    if not isinstance(name, str):
        return
    if data is None:
        raise SpecError(
            f"{key} names a file, and this server has no folder of data (--data); write the texts into the spec",
            param=key,
        )
    if "\0" in name or "\\" in name or Path(name).is_absolute() or ".." in Path(name).parts or name.startswith("."):
        raise SpecError(
            f"{key} is {shown(name)}; expected a path below the data folder, without '..' and not from the root",
            param=key,
        )
    root = data.resolve()
    if not (root / name).resolve().is_relative_to(root):
        raise SpecError(f"{key} is {shown(name)}, which leads out of the data folder", param=key)
