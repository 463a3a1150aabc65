"""How deep JSON may nest, found in one pass before it is parsed."""

from __future__ import annotations

import re

MAX_DEPTH = 32
"""The deepest request there is has 6 levels."""

_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_STEP = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}


def nests_too_deeply(document: bytes) -> bool:
    """Whether brackets outside strings stand more than MAX_DEPTH deep. Sound or not, it need not be parsed to know."""
    depth = 0
    for mark in _MARKS.finditer(document):
        depth += _STEP.get(document[mark.start()], 0)
        if depth > MAX_DEPTH:
            return True
    return False
