"""Chunks of a streamed answer in the shapes of the three routes.

Put together, the chunks of a choice are the choice of the answer that is not streamed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from service import logprobs
from service.streaming.stream import Chunk
from service.token_text import Places, TokenText
from steering.requests import TokenLogprob


def plain(chunk: Chunk, tokens: TokenText) -> dict[str, Any]:
    """For `POST /generate`."""
    entries = None if chunk.last else logprobs.plain(chunk.new, tokens)
    told = None if entries is None else [entry.model_dump() for entry in entries]
    return _entry(chunk, {"text": chunk.new.completion.text}, logprobs=told)


def chat(chunk: Chunk, tokens: TokenText) -> dict[str, Any]:
    """OpenAI's for chats; the first names the role."""
    role = {"role": "assistant"} if chunk.first else {}
    told = None if chunk.last else logprobs.chat(chunk.new, tokens)
    return _entry(chunk, {"delta": role | {"content": chunk.new.completion.text}}, logprobs=told)


class Completions:
    """OpenAI's for completions, of one answer; with `echo` the first chunk of a choice begins with its prompt.

    Log-probabilities say where in the text a token begins, so those of a token whose text is held back (a stop string
    may end with it) come when that is known.
    """

    def __init__(self, tokens: TokenText, *, echo: bool) -> None:
        self._tokens, self._echo = tokens, echo
        self._rows: dict[int, _Growing] = defaultdict(lambda: _Growing(tokens))

    def __call__(self, chunk: Chunk) -> dict[str, Any]:
        """The next chunk of its choice."""
        new, growing = chunk.new, self._rows[chunk.new.index]
        prompt = self._tokens.shown(new.prompt) if self._echo and chunk.first else ""
        told = None
        if new.completion.logprobs is not None:
            if self._echo and chunk.first:
                growing.begin(prompt, new.prompt_ids, new.completion.prompt_logprobs or ())
            told = growing.add(new.completion.text, new.completion.logprobs, done=chunk.last)
        return _entry(chunk, {"text": prompt + new.completion.text}, logprobs=told)


class _Growing:
    """The text of one choice so far, and the tokens whose places in it are not known yet."""

    def __init__(self, tokens: TokenText) -> None:
        self._tokens, self._places = tokens, Places(tokens)
        self._text, self._entries = "", list[TokenLogprob]()
        self._prompt: tuple[Sequence[int], Sequence[TokenLogprob | None], list[int]] = (), (), []
        self._behind = 0
        """Characters of the prompt"""

    def begin(self, prompt: str, ids: Sequence[int], entries: Sequence[TokenLogprob | None]) -> None:
        """Put an echoed prompt before it."""
        self._prompt = ids, entries, self._tokens.offsets(ids, prompt)
        self._behind = len(prompt)

    def add(self, text: str, entries: Sequence[TokenLogprob], *, done: bool) -> dict[str, Any] | None:
        """The lists of all tokens that are certain now; None when there are none."""
        self._text += text
        self._entries += entries
        places = self._places.add([entry.token_id for entry in entries], self._text, done=done)
        certain, self._entries = self._entries[: len(places)], self._entries[len(places) :]
        (ids, before, offsets), self._prompt = self._prompt, ((), (), [])
        if not certain and not ids:
            return None
        return logprobs.lists(
            [*ids, *(entry.token_id for entry in certain)],
            [*before, *certain],
            [*offsets, *(self._behind + at for at in places)],
            self._tokens,
        )


def _entry(chunk: Chunk, text: dict[str, Any], *, logprobs: object) -> dict[str, Any]:
    new = chunk.new
    return {
        "index": new.index,
        **text,
        "token_ids": new.completion.token_ids,
        "logprobs": logprobs,
        "finish_reason": chunk.finish_reason,
        "seed": new.seed,
        "baseline": new.baseline,
        "steering": new.steering,
    }
