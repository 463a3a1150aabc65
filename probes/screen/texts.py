"""Held-out prompts and neutral text for a screen, from a file, a dataset folder or FOLDER:SPLIT.

Prompts are put into an order that depends on a hash of the seed and the text alone, so that the first n are a fair
sample of a file sorted by category. Texts that stand in a file to be excluded are left out and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.errors import CorpusError, ScreenError
from probes.texts.corpus import text_key
from probes.texts.sources import Source, find_source
from steering.models import LanguageModel

MAX_PROMPT = 64
"""Tokens; longer prompts are left out: their caches would take most of the memory."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Where:
    """Only rows whose `column` is `value`: `label=negative`."""

    column: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Where:
        """From COLUMN=VALUE. Raises ScreenError."""
        column, equals, value = text.partition("=")
        if not column or not equals:
            raise ScreenError(f"--where {text} is not COLUMN=VALUE; for example --where label=negative", param="where")
        return cls(column, value)


@dataclass(frozen=True)
class Chosen:
    """What came out of a file."""

    ids: tuple[Ids, ...]
    excluded: int
    """Texts left out because an excluded file holds them"""


def read_texts(path: Path, column: str, *, where: Sequence[Where] = (), flag: str) -> list[str]:
    """The strings of one column, rows of other values left out. Raises CorpusError, or ScreenError naming the row."""
    texts = []
    for number, record in _found(path, flag=flag).records():
        for wanted in (column, *(rule.column for rule in where)):
            if wanted not in record:
                raise ScreenError(
                    f"{path}, row {number}: no column '{wanted}'; the columns are: {', '.join(map(str, record))}. Name "
                    f"the right one with {flag}-column or --where",
                    param=flag.removeprefix("--"),
                )
        if any(str(record[rule.column]) != rule.value for rule in where):
            continue
        if not isinstance(record[column], str):
            raise ScreenError(f"{path}, row {number}: '{column}' is no string; check {flag}-column")
        texts.append(record[column])
    return texts


def excluded_keys(paths: Sequence[Path]) -> frozenset[str]:
    """Keys of what must not come up in a screen: every string in every column of the files, lists included, as a whole
    and line by line, since neutral text is taken by the line.
    """
    keys: set[str] = set()
    for path in paths:
        for _, record in _found(path, flag="--exclude").records():
            for value in record.values():
                texts = [text for text in (value if isinstance(value, list) else [value]) if _is_text(text)]
                keys.update(text_key(part) for text in texts for part in (text, *text.split("\n")) if part.strip())
    return frozenset(keys)


def choose_prompts(
    lm: LanguageModel, texts: Sequence[str], *, n: int, new_tokens: int, seed: int, excluded: Collection[str]
) -> Chosen:
    """`n` different prompts of 2 to MAX_PROMPT tokens. Raises ScreenError when there are fewer."""
    limit = MAX_PROMPT if lm.context is None else min(MAX_PROMPT, lm.context - new_tokens)
    keys = {text_key(text): text for text in texts if text.strip()}
    held_out = [text for key, text in keys.items() if key not in excluded]
    ids = (_encode(lm, text.rstrip()) for text in _shuffled(held_out, seed=seed))
    chosen = _first(n, (found for found in ids if 2 <= len(found) <= limit))
    if len(chosen) < n:
        raise ScreenError(
            f"there are {len(chosen)} usable prompts of 2 to {limit} tokens, {n} were asked for; give more with "
            "--prompts, or a smaller --n",
            param="n",
        )
    return Chosen(chosen, excluded=len(keys) - len(held_out))


def choose_neutral(
    lm: LanguageModel, texts: Sequence[str], *, n: int, tokens: int, seed: int, excluded: Collection[str]
) -> Chosen:
    """The first `tokens` tokens of `n` paragraphs that are long enough. Raises ScreenError when there are fewer."""
    paragraphs = {text_key(part): part.strip() for text in texts for part in text.split("\n") if part.strip()}
    held_out = [part for key, part in paragraphs.items() if key not in excluded]
    ids = (_encode(lm, part)[:tokens] for part in _shuffled(held_out, seed=seed))
    chosen = _first(n, (found for found in ids if len(found) == tokens))
    if len(chosen) < n:
        raise ScreenError(
            f"there are {len(chosen)} neutral paragraphs of {tokens} tokens or more, {n} were asked for; give more "
            "with --neutral, or a smaller --neutral-n",
            param="neutral_n",
        )
    return Chosen(chosen, excluded=len(paragraphs) - len(held_out))


def _found(path: Path, *, flag: str) -> Source:
    """The file, dataset folder or FOLDER:SPLIT. Raises ScreenError, naming `flag`, when there is none."""
    try:
        return find_source(path)
    except CorpusError as error:
        raise ScreenError(f"{flag}: {error}", param=flag.removeprefix("--")) from None


def _shuffled(texts: Sequence[str], *, seed: int) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(f"{seed}:{text}".encode(errors="surrogatepass")).digest())


def _first(n: int, found: Iterator[Ids]) -> tuple[Ids, ...]:
    return tuple(ids for _, ids in zip(range(n), found, strict=False))


def _encode(lm: LanguageModel, text: str) -> Ids:
    return tuple(lm.tokenizer(text)["input_ids"])


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
