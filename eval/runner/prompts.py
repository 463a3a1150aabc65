"""The prompts of a run: from files of JSON lines or from the spec itself, each with an id and a stratum.

Texts may be toxic or private: a message names them by file and line, never by content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.runner.errors import SpecError
from eval.runner.lines import KnownTexts, read_lines
from eval.runner.reading import ReadSpec
from eval.runner.spec import PromptSource


@dataclass(frozen=True)
class Prompt:
    """One text to be continued."""

    id: str
    """Unique within its set"""
    set: str
    text: str
    stratum: str | None
    line: int
    """In its file, from 1; its place in the list where the spec holds it"""


def read_prompts(read: ReadSpec) -> tuple[list[Prompt], list[str]]:
    """All prompts of all sets, in the order of the spec and of the files, and what was left out, in sentences.

    Raises SpecError: no such file, no such column, an empty text, an id twice, no prompt left, fewer than n, or one
    set name for two sources.
    """
    sets: dict[str, list[Prompt]] = {}
    left_out = []
    for number, source in enumerate(read.spec.prompts, 1):
        name = source.name or (Path(source.file).name.partition(".")[0] if source.file else f"prompts-{number}")
        if name in sets:
            raise SpecError(f"two prompt sets are called '{name}'; give each a name of its own", param="prompts")
        found = [_prompt(source, name, line, row) for line, row in _rows(source, read) if _wanted(source, line, row)]
        known = [KnownTexts(read.path(file)) for file in source.exclude]
        kept = [prompt for prompt in found if not any(prompt.text in texts for texts in known)]
        if len(kept) < len(found):
            left_out.append(
                f"{len(found) - len(kept)} prompts of '{name}' stand in {', '.join(source.exclude)} and were left out"
            )
        sets[name] = _chosen(_once(kept, name, source), source, name)
    return [prompt for prompts in sets.values() for prompt in prompts], left_out


def _rows(source: PromptSource, read: ReadSpec) -> Iterator[tuple[int, dict[str, Any]]]:
    if source.texts is not None:
        yield from ((number, {source.column: text}) for number, text in enumerate(source.texts, 1))
        return
    assert source.file is not None
    out = (
        "; these texts are not shipped: give the folder that holds them with --data"
        if read.ready
        else ("; paths are relative to `data` (--data), or to the spec file if they begin with ./")
    )
    yield from read_lines(read.path(source.file), missing=out)


def _wanted(source: PromptSource, line: int, row: dict[str, Any]) -> bool:
    return all(_column(source, line, row, name) == value for name, value in source.where.items())


def _prompt(source: PromptSource, name: str, line: int, row: dict[str, Any]) -> Prompt:
    text = _column(source, line, row, source.column)
    if not isinstance(text, str) or not text.strip():
        raise SpecError(f"{name}, line {line}: '{source.column}' is empty or no string; remove it", param="prompts")
    given = row.get(source.id)
    return Prompt(str(line if given is None else given), name, text, _stratum(source, line, row), line)


def _stratum(source: PromptSource, line: int, row: dict[str, Any]) -> str | None:
    if source.stratum is not None:
        return str(_column(source, line, row, source.stratum))
    if source.score is None:
        return None
    score = _column(source, line, row, source.score)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise SpecError(f"line {line}: '{source.score}' is no number, so it makes no strata", param="prompts")
    return f"{source.score} {'>=' if score >= source.threshold else '<'} {source.threshold:g}"


def _column(source: PromptSource, line: int, row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise SpecError(
            f"{source.file or 'prompts'}, line {line}: no column '{name}'; the columns are: {', '.join(row)}",
            param="prompts",
        )
    return row[name]


def _once(found: Sequence[Prompt], name: str, source: PromptSource) -> list[Prompt]:
    """Without texts that came before. Raises SpecError for an id that stands for two texts, or when nothing is left."""
    if not found:
        where = f" ({source.file})" if source.file else ""
        asked = [f"`{key}`" for key, given in (("where", source.where), ("exclude", source.exclude)) if given]
        left = f" left by {' and '.join(asked)}" if asked else ""
        raise SpecError(f"the prompt set '{name}' is empty{where}; expected at least one text{left}", param="prompts")
    first: dict[str, Prompt] = {}
    for prompt in found:
        first.setdefault(prompt.text, prompt)
    kept = list(first.values())
    lines: dict[str, int] = {}
    for prompt in kept:
        if lines.setdefault(prompt.id, prompt.line) != prompt.line:
            raise SpecError(
                f"{name}: lines {lines[prompt.id]} and {prompt.line} have the same id; name another `id` column",
                param="prompts",
            )
    return kept


def _chosen(found: list[Prompt], source: PromptSource, name: str) -> list[Prompt]:
    """n of them, or n of each stratum, in the order of the file."""
    if source.n is None and source.n_per_stratum is None:
        return found
    strata: dict[str | None, list[Prompt]] = {}
    for prompt in found:
        strata.setdefault(prompt.stratum if source.n_per_stratum else None, []).append(prompt)
    n = source.n or source.n_per_stratum or 0
    chosen: set[str] = set()
    for stratum, prompts in strata.items():
        if len(prompts) < n:
            of = f" of stratum '{stratum}'" if source.n_per_stratum else ""
            raise SpecError(
                f"{name} holds {len(prompts)} different prompts{of}, and n is {n}; lower n", param="prompts"
            )
        ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(f"{source.seed}:{prompt.text}".encode()).digest())
        chosen |= {prompt.id for prompt in ranked[:n]}
    return [prompt for prompt in found if prompt.id in chosen]
