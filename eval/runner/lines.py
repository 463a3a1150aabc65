"""Files of JSON lines, and the texts a file is known to hold.

Texts are compared without case and spacing. A prompt stands in a file when a text there is the prompt, or begins with
the whole of it and it has at least `WORDS` words: shorter ones begin many texts by chance.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.runner.errors import SpecError

WORDS = 6


class KnownTexts:
    """Every string in every column of a file, those in lists included. Raises SpecError as `read_lines`."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._texts = sorted({_plain(text) for _, row in read_lines(path) for text in _strings(row)})

    def __contains__(self, text: str) -> bool:
        plain = _plain(text)
        at = bisect_left(self._texts, plain)
        if at == len(self._texts):
            return False
        return self._texts[at] == plain or (len(plain.split()) >= WORDS and self._texts[at].startswith(plain))

    def __len__(self) -> int:
        return len(self._texts)


def read_lines(path: Path, *, missing: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, record) of a file of JSON lines, gzipped or not. Raises SpecError with the line."""
    if not path.is_file():
        raise SpecError(f"there is no file {path}{missing}", param="data")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                record = json.loads(text)
                if not isinstance(record, dict):
                    raise SpecError(f"{path.name}, line {line} is no JSON object", param="prompts")
                yield line, record
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name} cannot be read ({type(error).__name__}); is it whole?", param="prompts") from None
    except json.JSONDecodeError:
        raise SpecError(f"{path.name}, line {line} is no JSON; expected one object per line", param="prompts") from None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _strings(row: dict[str, Any]) -> list[str]:
    values = [entry for value in row.values() for entry in (value if isinstance(value, list) else [value])]
    return [value for value in values if isinstance(value, str) and value.strip()]
