"""`/reports`: the page that lists evaluations. Its parts are static files; it asks the same routes as any client."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response

from service.page.files import sent

router = APIRouter(include_in_schema=False)

_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; "  # a report opened with a key is a document of this page, with its styles
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/reports")
async def page(known: Annotated[str | None, Header(alias="if-none-match")] = None) -> Response:
    """The page."""
    return sent("reports.html", known, policy=_POLICY)
