"""The pages: the playground at `/`, evaluations at `/reports`, the routes at `/docs`; and the files they are made of.

A page runs its own modules alone: no inline script, nothing from elsewhere, and its policy says so.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response

from service.page.files import sent, static_files

router = APIRouter(include_in_schema=False)

_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
_REPORTS_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; "  # a report opened with a key is a document of this page, with its styles
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Known = Annotated[str | None, Header(alias="if-none-match")]


@router.api_route("/", methods=["GET", "HEAD"])
async def playground(known: Known = None) -> Response:
    """Unsteered and steered text, side by side."""
    return sent("index.html", known, policy=_POLICY)


@router.api_route("/reports", methods=["GET", "HEAD"])
async def reports(known: Known = None) -> Response:
    """The evaluations of this server."""
    return sent("reports.html", known, policy=_REPORTS_POLICY)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(known: Known = None) -> Response:
    """The routes, from `/openapi.json`."""
    return sent("docs.html", known, policy=_POLICY)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def static(name: str, known: Known = None) -> Response:
    """A file of a page, by its name."""
    if name not in static_files():
        raise HTTPException(404)
    return sent(name, known, policy=_POLICY)
