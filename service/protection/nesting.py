"""How deep JSON may nest, found before it is parsed, at the speed of `bytes.replace`.

Strings go, then all but brackets, and what is left is rid of its innermost pairs once per level that is allowed:

    {"a": [[1], "]"]}  ->  [[[]]]  ->  [[]]  ->  []  ->  nothing: three levels
"""

from __future__ import annotations

import re

MAX_DEPTH = 32
"""The deepest request there is has 6 levels."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""To the end if it never closes: to look for an end from each of a million quotes would take quadratic time."""

_SQUARE = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


def nests_too_deeply(document: bytes) -> bool:
    """Whether brackets outside strings stand more than MAX_DEPTH deep; of unsound JSON, whether that many stay open."""
    brackets = _STRING.sub(b"", document).translate(_SQUARE, _OTHERS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets or brackets.count(b"[") > MAX_DEPTH
