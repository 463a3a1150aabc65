"""Keeping a table in a document equal to the run that made it."""

from __future__ import annotations

from pathlib import Path

from steering.errors import InvalidRequest


def replace_section(path: Path, name: str, text: str) -> None:
    """Put `text` between `<!-- NAME -->` and `<!-- /NAME -->` in the file at `path`.

    Raises InvalidRequest when either marker is absent.
    """
    document = path.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, found, rest = document.partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise InvalidRequest(
            f"{path.name} has no section between '{start}' and '{end}'; add both lines", param="readme"
        )
    path.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")
