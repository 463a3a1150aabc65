"""The files of the pages: HTML, style sheets, modules, one icon. Read once, known by name, and nothing else is served.

They are as they are written: no build step, and nothing on a page comes from elsewhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import Response

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


def sent(name: str, known: str | None, *, policy: str) -> Response:
    """The file called `name` under a content security policy; 304 where `known` (if-none-match) is what it is."""
    file = static_files()[name]
    headers = {
        "cache-control": "no-cache",  # kept, and asked for again: an update is seen at once
        "content-security-policy": policy,
        "etag": file.etag,
    }
    seen = {tag.strip().removeprefix("W/") for tag in (known or "").split(",")}
    if file.etag in seen or "*" in seen:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _read(name: str, content: bytes) -> StaticFile:
    return StaticFile(content, _TYPES[_suffix(name)], f'"{hashlib.sha256(content).hexdigest()[:20]}"')


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
