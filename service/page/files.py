"""The playground's files: HTML, style sheets, modules, one icon. Read once, known by name, and nothing else is served.

They are as they are written: no build step, and nothing on the page comes from elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class StaticFile:
    """One file, ready to be sent."""

    content: bytes
    media_type: str
    etag: str
    """Of the content, so that a browser keeps a file until it changes."""


@cache
def static_files() -> dict[str, StaticFile]:
    """Every file by its name."""
    return {
        entry.name: _read(entry.name, entry.read_bytes())
        for entry in (resources.files("service.page") / "static").iterdir()
        if _suffix(entry.name) in _TYPES
    }


def _read(name: str, content: bytes) -> StaticFile:
    return StaticFile(content, _TYPES[_suffix(name)], f'"{hashlib.sha256(content).hexdigest()[:20]}"')


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
