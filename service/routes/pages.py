"""`GET /`: the playground, and the files it is made of.

The page runs its own modules alone: no inline script or style, nothing from elsewhere, and the policy says so.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from service.errors import ApiError, Kind
from service.page.files import StaticFile, static_files

router = APIRouter(include_in_schema=False)

POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
_HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again: an update is seen at once
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

Known = Annotated[str | None, Header(alias="if-none-match")]


@router.api_route("/", methods=["GET", "HEAD"])
async def playground(known: Known = None) -> Response:
    """The page."""
    return _sent(static_files()["index.html"], known)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
async def static(name: str, request: Request, known: Known = None) -> Response:
    """A file of the page, by its name."""
    found = static_files().get(name)
    if found is None:
        raise ApiError(Kind(404, "not_found_error", "route_not_found"), f"the page has no file {request.url.path}")
    return _sent(found, known)


def _sent(file: StaticFile, known: str | None) -> Response:
    headers = _HEADERS | {"etag": file.etag}
    seen = {tag.strip().removeprefix("W/") for tag in (known or "").split(",")}
    if file.etag in seen or "*" in seen:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
