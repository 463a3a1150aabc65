"""Prompts that the model itself continues: read, cut, freed of repetitions and of what others are judged on, divided.

A prompt file is any table of `probes.texts.reading` with a column `prompt` or `text`. Two prompts are the same when
they agree after the cut, case folding and collapsing of white space; a prompt and all its continuations stand on one
side of every division, which depends on a hash of that text alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from probes.errors import CorpusError
from probes.texts.corpus import text_key
from probes.texts.formats import list_columns
from probes.texts.reading import read_records

Side = Literal["train", "calibration", "test"]
SIDES: tuple[Side, ...] = get_args(Side)
SHARES = (0.70, 0.15, 0.15)
COLUMNS = ("prompt", "text")


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts in a fixed order."""

    texts: tuple[str, ...]
    repeated: int = 0
    """Rows left out because an earlier one is the same."""
    excluded: int = 0
    """Rows left out because they stand in an excluded file."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """Over the texts in order."""
        digest = hashlib.sha256()
        for text in self.texts:
            encoded = text.encode()
            digest.update(f"{len(encoded)}:".encode())
            digest.update(encoded)
        return digest.hexdigest()

    def sides(self, *, seed: int) -> dict[Side, NDArray[np.int64]]:
        """Positions of the prompts of each side, rising; 70 / 15 / 15 by hash."""
        place = _fractions(self.texts, salt=f"side:{seed}")
        side = np.searchsorted(np.cumsum(SHARES)[:-1], place, side="right")
        return {name: np.flatnonzero(side == at) for at, name in enumerate(SIDES)}

    def folds(self, count: int, *, seed: int) -> NDArray[np.int64]:
        """(prompts,) fold numbers 0..count-1, by a hash independent of that of `sides`."""
        folds: NDArray[np.int64] = (_fractions(self.texts, salt=f"fold:{seed}") * count).astype(np.int64)
        return folds


def read_prompts(
    files: Sequence[Path],
    *,
    words: int | None = None,
    limit: int | None = None,
    exclude: Sequence[Path] = (),
    seed: int = 0,
) -> Prompts:
    """The prompts of `files`, cut to their first `words` words, without those that also begin a row of `exclude`.

    `limit` keeps that many, chosen by hash, so that files of different length are mixed in proportion. Raises
    CorpusError for no file, no column, a prompt that is no text or empty, or no prompts left.
    """
    if not files:
        raise CorpusError(
            "--on-policy needs prompts for the model to continue; give a file with --prompts", param="prompts"
        )
    given = [text for path in files for text in _texts(path, words=words)]
    banned = _beginnings(exclude, lengths={len(text.split()) for text in given})
    kept: dict[str, str] = {}
    read, excluded = len(given), 0
    for text in given:
        key = text_key(text)
        if key in banned:
            excluded += 1
        else:
            kept.setdefault(key, text)
    if not kept:
        raise CorpusError(
            f"no prompts are left of {read} rows ({excluded} stand in an excluded file); give other --prompts",
            param="prompts",
        )
    texts = list(kept.values())
    if limit is not None and limit < len(texts):
        order = np.argsort(_fractions(texts, salt=f"limit:{seed}"), kind="stable")
        texts = [texts[at] for at in np.sort(order[:limit])]
    return Prompts(tuple(texts), repeated=read - excluded - len(kept), excluded=excluded)


def _beginnings(paths: Sequence[Path], *, lengths: set[int]) -> set[str]:
    """Keys of the first n words of every row, for each n of `lengths`."""
    found = set()
    for path in paths:
        for text in _texts(path, words=None):
            split = text.split()
            found |= {text_key(" ".join(split[:n])) for n in lengths if n <= len(split)}
    return found


def _texts(path: Path, *, words: int | None) -> Iterable[str]:
    for number, record in read_records(path):
        column = next((name for name in COLUMNS if name in record), None)
        if column is None:
            raise CorpusError(
                f"{path.name}, row {number}: no column 'prompt' or 'text'; the columns are: {list_columns(record)}",
                param="prompts",
            )
        text = record[column]
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(
                f"{path.name}, row {number}: '{column}' is empty or no text; remove the row", param="prompts"
            )
        yield text if words is None else " ".join(text.split()[:words])


def _fractions(texts: Sequence[str], *, salt: str) -> NDArray[np.float64]:
    """(texts,) numbers in [0, 1) that depend on each text's key and `salt` alone."""
    digests = (hashlib.sha256(f"{salt}:{text_key(text)}".encode()).digest() for text in texts)
    return np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])
