"""Log-probabilities in the three shapes of the API: plain, OpenAI's of completions, OpenAI's of chats.

They are the model's own, as it was steered: of the whole vocabulary, before temperature, penalties and bias. The token
that ended a text is among them, as it is among its `token_ids` and in `usage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.answering import Choice
from service.schemas.generation import NewToken, TokenChance
from service.token_text import TokenText
from steering.requests import TokenLogprob

FLOOR = -9999.0
"""For probability 0, whose logarithm JSON does not have; OpenAI's number."""


def plain(choice: Choice, tokens: TokenText) -> list[NewToken] | None:
    """For `POST /generate`: one entry per new token."""
    return _each(choice.completion.logprobs, tokens)


def chat(choice: Choice, tokens: TokenText) -> dict[str, Any] | None:
    """OpenAI's shape for chats: `content`, one entry per new token."""
    entries = _each(choice.completion.logprobs, tokens)
    if entries is None:
        return None
    content = [_without_id(entry) | {"top_logprobs": [_without_id(rival) for rival in entry.top]} for entry in entries]
    return {"content": content, "refusal": None}


def completion(choice: Choice, tokens: TokenText, *, prompt: str | None) -> dict[str, Any] | None:
    """OpenAI's shape for completions: four lists, over the tokens of `prompt`, unless it is None, and the new ones.

    Of the first prompt token nothing is known: null. `top_logprobs` has each token itself besides the likeliest.
    """
    new = choice.completion.logprobs
    if new is None:
        return None
    offsets = tokens.offsets([entry.token_id for entry in new], choice.completion.text)
    entries: list[TokenLogprob | None] = list(new)
    ids = [entry.token_id for entry in new]
    if prompt is not None:
        entries = [*(choice.completion.prompt_logprobs or ()), *new]
        ids = [*choice.prompt_ids, *ids]
        offsets = [*tokens.offsets(choice.prompt_ids, prompt), *(len(prompt) + at for at in offsets)]
    return lists(ids, entries, offsets, tokens)


def lists(
    ids: Sequence[int], entries: Sequence[TokenLogprob | None], offsets: Sequence[int], tokens: TokenText
) -> dict[str, Any]:
    """The four lists, of tokens with these ids that begin at these places of the text."""
    return {
        "tokens": [tokens.name_of(token) for token in ids],
        "token_logprobs": [None if entry is None else _finite(entry.logprob) for entry in entries],
        "top_logprobs": [None if entry is None else _by_name(entry, tokens) for entry in entries],
        "text_offset": offsets,
    }


def _each(entries: list[TokenLogprob] | None, tokens: TokenText) -> list[NewToken] | None:
    def chance(token: int, logprob: float) -> dict[str, Any]:
        data = tokens.bytes_of(token)
        return {"token_id": token, "token": tokens.text_of(token), "bytes": list(data), "logprob": _finite(logprob)}

    if entries is None:
        return None
    return [
        NewToken(**chance(entry.token_id, entry.logprob), top=[TokenChance(**chance(*rival)) for rival in entry.top])
        for entry in entries
    ]


def _without_id(entry: TokenChance) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": entry.bytes}


def _by_name(entry: TokenLogprob, tokens: TokenText) -> dict[str, float]:
    """The likeliest by name, falling; of two tokens with one name the likelier is told, but the one drawn always."""
    found: dict[str, float] = {}
    for token, logprob in entry.top:
        found.setdefault(tokens.name_of(token), _finite(logprob))
    return found | {tokens.name_of(entry.token_id): _finite(entry.logprob)}


def _finite(logprob: float) -> float:
    return max(logprob, FLOOR)
