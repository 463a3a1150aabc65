"""`GET /`: the playground; and the files our pages are made of.

A page runs its own modules alone: no inline script or style, nothing from elsewhere, and the policy says so.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response

from service.page.files import sent, static_files

router = APIRouter(include_in_schema=False)

_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"

Known = Annotated[str | None, Header(alias="if-none-match")]


@router.api_route("/", methods=["GET", "HEAD"])
async def playground(known: Known = None) -> Response:
    """The page."""
    return sent("index.html", known, policy=_POLICY)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def static(name: str, known: Known = None) -> Response:
    """A file of a page, by its name."""
    if name not in static_files():
        raise HTTPException(404)
    return sent(name, known, policy=_POLICY)
