"""`/reports`: the page that lists evaluations. Static files of the package; it asks the same routes as any client."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, HTTPException, Response

router = APIRouter(include_in_schema=False)

_STATIC = files("service") / "page" / "static"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "style-src 'self' 'unsafe-inline'; "  # a report opened with a key is a document of this page, with its styles
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@router.get("/reports")
async def page() -> Response:
    """The page."""
    return _file("reports.html", "text/html")


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """Its parts."""
    kind = _KINDS.get(Path(name).suffix)
    if kind is None or name not in _names():
        raise HTTPException(404)
    return _file(name, kind)


def _file(name: str, kind: str) -> Response:
    return Response(_text(name), media_type=f"{kind}; charset=utf-8", headers=_HEADERS)


@cache
def _names() -> frozenset[str]:
    return frozenset(file.name for file in _STATIC.iterdir())


@cache
def _text(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")
