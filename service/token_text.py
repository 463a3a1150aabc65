"""What a token stands for by itself: its bytes, and where it stands in a text.

A token of a byte-level vocabulary is a piece of UTF-8, so it may be part of a character, and several may decode to the
same replacement character. Its bytes are exact where the tokenizer is byte-level (GPT-2, Llama 3, Qwen, SmolLM) or
falls back to bytes (SentencePiece); elsewhere they are those of the text it decodes to.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece writes a space."""


class TokenText:
    """Tokens of one tokenizer. Every method may be called from any thread."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._added: dict[int, bytes] = {token: str(entry.content).encode() for token, entry in added.items()}
        self._special = frozenset(token for token, entry in added.items() if entry.special)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._decoder = repr(getattr(backend, "decoder", None))
        self.bytes_of = lru_cache(maxsize=None)(self._bytes_of)
        """The bytes of a token id; none for an id no token has. Kept, so a second look is cheap."""

    def text_of(self, token: int) -> str:
        """The token's text; what is no complete UTF-8 by itself is replaced."""
        return self.bytes_of(token).decode(errors="replace")

    def name_of(self, token: int) -> str:
        """The token's text; part of a character as `bytes:\\xe2\\x80`, so that no two parts have one name."""
        data = self.bytes_of(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def offsets(self, tokens: Sequence[int], text: str) -> list[int]:
        """Where in `text`, which they were decoded to or made from, each token begins, in characters.

        Tokens that share a character begin where it begins. Special tokens take room only where the text shows them.
        """
        return Places(self).add(tokens, text, done=True)

    def is_special(self, token: int) -> bool:
        """Whether it marks something, such as the end of a text, and is no part of one."""
        return token in self._special

    def shown(self, prompt: str | Sequence[int]) -> str:
        """A prompt as an echo shows it: as it was sent, token ids as their text, special ones included."""
        if isinstance(prompt, str):
            return prompt
        return str(self._tokenizer.decode(list(prompt), clean_up_tokenization_spaces=False))

    def _bytes_of(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token]
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if "ByteLevel" in self._decoder and all(char in _BYTES for char in piece):
            return bytes(_BYTES[char] for char in piece)
        if "ByteFallback" in self._decoder and (byte := re.fullmatch("<0x([0-9A-F]{2})>", piece)):
            return bytes.fromhex(byte[1])
        if "ByteFallback" in self._decoder or "Metaspace" in self._decoder:
            return str(piece).replace(_SPACE, " ").encode()
        return str(self._tokenizer.decode([token])).encode()


class Places:
    """Where tokens begin in a text that may still be growing; see `TokenText.offsets`."""

    def __init__(self, tokens: TokenText) -> None:
        self._tokens = tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at = 0
        self._waiting: deque[int] = deque()

    def add(self, tokens: Sequence[int], text: str, *, done: bool) -> list[int]:
        """The places that have become certain, in order, now that these tokens have come and the text is `text`.

        Those of tokens whose text is held back come later; when it is `done`, all that are left.
        """
        self._waiting.extend(tokens)
        places = []
        while self._waiting and (done or self._is_certain(self._waiting[0], text)):
            places.append(min(self._at, len(text)))
            self._pass(self._waiting.popleft(), text)
        return places

    def _is_certain(self, token: int, text: str) -> bool:
        room = len(self._tokens.bytes_of(token)) if self._tokens.is_special(token) else 0
        return self._at + room <= len(text) > 0

    def _pass(self, token: int, text: str) -> None:
        data = self._tokens.bytes_of(token)
        if self._tokens.is_special(token):
            self._at += len(data.decode()) if text.startswith(data.decode(), self._at) else 0
            return
        piece = self._decoder.decode(data)
        if self._at == 0 and piece.startswith(" ") and not text.startswith(" "):  # one SentencePiece puts before a text
            piece = piece[1:]
        self._at += len(piece)


def _byte_alphabet() -> dict[str, int]:
    """The byte each letter of a byte-level vocabulary stands for: itself if printable, the rest from letter 256 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()
