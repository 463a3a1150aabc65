"""Every refusal has one shape: `{"error": {"message", "type", "param", "code"}}`, and one table gives its status.

The table maps the exception tree of `steering.errors` (the nearest ancestor counts). `ApiError` is for what only HTTP
knows: routes, bodies, validation. A 5xx that is our own fault says nothing of paths or traces; the log does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.operations import visits
from service.validation import describe_validation, printable, shown
from steering.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InvalidBounds,
    InvalidRequest,
    NotEnoughMemory,
    ProbeMismatch,
    PromptTooLong,
    SteeringNotApplied,
    TillerError,
    UnknownProbe,
    UnsupportedSteering,
)

log = logging.getLogger("tiller")


@dataclass(frozen=True)
class Kind:
    """What a class of errors looks like from outside."""

    status: int
    type: str
    code: str


INTERNAL = Kind(500, "internal_error", "internal_error")
NOT_APPLIED = Kind(500, "internal_error", "steering_not_applied")
INVALID = Kind(400, "invalid_request_error", "invalid_request")
UNSUPPORTED = Kind(400, "invalid_request_error", "unsupported")
BAD_JSON = Kind(400, "invalid_request_error", "invalid_json")
BODY_TOO_LARGE = Kind(413, "invalid_request_error", "body_too_large")
BAD_MEDIA = Kind(415, "invalid_request_error", "unsupported_media_type")
TOO_SLOW = Kind(408, "invalid_request_error", "body_timeout")
INVALID_PROBE = Kind(400, "invalid_request_error", "invalid_probe")
PROBE_EXISTS = Kind(409, "conflict_error", "probe_exists")
PROBE_SHIPPED = Kind(409, "conflict_error", "probe_shipped")
PROBE_IN_USE = Kind(409, "conflict_error", "probe_in_use")
TOO_MANY_PROBES = Kind(409, "conflict_error", "too_many_probes")
POLICY_NOT_FOUND = Kind(404, "not_found_error", "policy_not_found")
POLICY_BROKEN = Kind(409, "conflict_error", "policy_broken")
POLICY_IN_USE = Kind(409, "conflict_error", "policy_in_use")
TOO_MANY_POLICIES = Kind(409, "conflict_error", "too_many_policies")
OPT_OUT = Kind(403, "permission_error", "opt_out_not_allowed")
RELOAD_REFUSED = Kind(409, "conflict_error", "reload_refused")
STORAGE = Kind(507, "unavailable_error", "storage_failed")
MODEL_NOT_FOUND = Kind(404, "not_found_error", "model_not_found")
FORBIDDEN = Kind(403, "permission_error", "forbidden")
UNAUTHENTICATED = Kind(401, "authentication_error", "invalid_api_key")
FOREIGN_ORIGIN = Kind(403, "permission_error", "origin_not_allowed")
UNKNOWN_HOST = Kind(403, "permission_error", "host_not_allowed")
RATE_LIMITED = Kind(429, "rate_limit_error", "rate_limit_exceeded")
INSUFFICIENT_QUOTA = Kind(429, "rate_limit_error", "insufficient_quota")
NOT_HTTP = Kind(400, "invalid_request_error", "invalid_http")
HEAD_TOO_SLOW = Kind(408, "invalid_request_error", "head_timeout")
URL_TOO_LONG = Kind(414, "invalid_request_error", "url_too_long")
HEADERS_TOO_LARGE = Kind(431, "invalid_request_error", "headers_too_large")
TOO_MANY_CONNECTIONS = Kind(503, "unavailable_error", "too_many_connections")
CLIENT_GONE = Kind(499, "invalid_request_error", "client_disconnected")
EVALUATION_NOT_FOUND = Kind(404, "not_found_error", "evaluation_not_found")
EVALUATION_NOT_DONE = Kind(409, "conflict_error", "evaluation_not_done")
EVALUATION_OVER = Kind(409, "conflict_error", "evaluation_over")
EVALUATION_CANCELLED = Kind(410, "conflict_error", "evaluation_cancelled")
NO_EVALUATIONS = Kind(400, "invalid_request_error", "evaluations_not_available")
EVALUATIONS_FULL = Kind(503, "unavailable_error", "evaluations_full")
LOADING = Kind(503, "unavailable_error", "loading")
DRAINING = Kind(503, "unavailable_error", "draining")
FAILED = Kind(503, "unavailable_error", "engine_failed")

TABLE: dict[type[TillerError], Kind] = {
    TillerError: INTERNAL,  # ProbeError, ModelError, SelfTestFailed: start-up only, and their messages name paths
    InvalidRequest: INVALID,
    InvalidBounds: Kind(400, "invalid_request_error", "invalid_bounds"),
    PromptTooLong: Kind(400, "invalid_request_error", "context_length_exceeded"),
    UnsupportedSteering: Kind(400, "invalid_request_error", "unsupported_steering"),
    UnknownProbe: Kind(404, "not_found_error", "probe_not_found"),
    SteeringNotApplied: NOT_APPLIED,
    ProbeMismatch: Kind(409, "conflict_error", "probe_model_mismatch"),
    DeadlineExceeded: Kind(504, "timeout_error", "deadline_exceeded"),
    EngineUnavailable: Kind(503, "unavailable_error", "engine_unavailable"),
    NotEnoughMemory: Kind(503, "unavailable_error", "not_enough_memory"),
}

_ROUTING = {
    404: Kind(404, "not_found_error", "route_not_found"),
    405: Kind(405, "invalid_request_error", "method_not_allowed"),
}


class ErrorDetail(BaseModel):
    """What went wrong, and the way out."""

    message: str
    type: str
    param: str | None
    """Dotted name of the offending field, as the caller wrote it."""
    code: str
    """A stable name a program may rely on."""


class ErrorBody(BaseModel):
    """The body of every reply that is not a success."""

    error: ErrorDetail


def _declared(description: str, **headers: str) -> dict[str, Any]:
    told = {name.replace("_", "-"): {"schema": {"type": "integer"}, "description": of} for name, of in headers.items()}
    return {"model": ErrorBody, "description": description, **({"headers": told} if told else {})}


_AGAIN = "Seconds after which to ask again; absent when that would not help"
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _declared("Not understood, or not to be had here: `param` names the field, `message` the way out"),
    401: _declared("No valid key, where the server has keys"),
    413: _declared("The body is too large"),
    429: _declared("More than this key may ask for", retry_after=_AGAIN),
    503: _declared("Not now: the model loads, too many wait, or the server shuts down", retry_after=_AGAIN),
    "default": _declared("A refusal, always of this shape"),
}
"""What any route may answer instead, for the document of the API."""
TOO_LATE: dict[int | str, dict[str, Any]] = {504: _declared("Not ready within the seconds the request had")}
"""And those that may take long."""


class ApiError(Exception):
    """A refusal, ready to be sent."""

    def __init__(
        self, kind: Kind, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.headers = dict(headers or {})


def describe(error: TillerError, *, within: str = "", param: str | None = None) -> ApiError:
    """A TillerError as its caller should see it. `within` is put before the field it names; `param` is its default."""
    kind = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    if kind is INTERNAL:
        return internal()
    if kind is NOT_APPLIED:
        return not_applied()
    named = getattr(error, "param", None) or param
    headers = {"x-should-retry": "false"} if isinstance(error, (ProbeMismatch, DeadlineExceeded)) else {}
    if isinstance(error, EngineUnavailable):
        headers = (
            {"x-should-retry": "false"}
            if error.retry_after is None
            else {"retry-after": str(max(1, round(error.retry_after)))}
        )
    return ApiError(kind, str(error), param=".".join(part for part in (within, named) if part) or None, headers=headers)


def reply(error: ApiError) -> JSONResponse:
    """`error` as a response."""
    full = error.kind is TABLE[EngineUnavailable] and "retry-after" in error.headers
    visits.refused(error.kind.code, reason="queue_full" if full else error.kind.code)
    return JSONResponse(_document(error), status_code=error.kind.status, headers=error.headers)


def document_of(error: Exception) -> dict[str, Any]:
    """Any error as the body of a refusal, for where a status has been sent. What nobody raised on purpose is logged."""
    if isinstance(error, ApiError):
        return _document(error)
    if isinstance(error, TillerError):
        return _document(describe(error))
    log.error("a stream ended in an error of the server's own", exc_info=error)
    return _document(internal())


def _document(error: ApiError) -> dict[str, Any]:
    """Lone surrogates a caller may have sent are escaped, for they have no UTF-8."""
    detail = ErrorDetail(
        message=printable(error.message),
        type=error.kind.type,
        param=None if error.param is None else printable(error.param),
        code=error.kind.code,
    )
    return ErrorBody(error=detail).model_dump()


def install(app: FastAPI) -> None:
    """Make every error of `app` a reply of the one shape; what has no handler here is left to `Visits`."""

    async def on_api(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return reply(error)

    async def on_tiller(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, TillerError)
        told = describe(error)
        if told.kind.status == INTERNAL.status:
            log.error("a request failed for a reason its caller is not told", exc_info=error)
        return reply(told)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        message, param, unsupported = describe_validation(error.errors()[0])
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if param is None and kind != "application/json" and await request.body():
            sent = f"as {shown(kind)}" if kind else "without a content-type"
            message = f"the body came {sent}; send a JSON object, with the header content-type: application/json"
            return reply(ApiError(BAD_MEDIA, message, param="content-type"))
        return reply(ApiError(UNSUPPORTED if unsupported else INVALID, message, param=param))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return reply(_routing(request, error))

    app.add_exception_handler(ApiError, on_api)
    app.add_exception_handler(TillerError, on_tiller)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


def _routing(request: Request, error: HTTPException) -> ApiError:
    path, method, headers = request.url.path, request.method, dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _methods(request)  # it names those of one route, of several with this path
    messages = {
        404: f"there is no route {path}; {_elsewhere(path)}",
        405: f"{path} does not take {method}; it takes {headers.get('Allow')}",
    }
    kind = _ROUTING.get(error.status_code, Kind(error.status_code, "invalid_request_error", "invalid_request"))
    return ApiError(kind, messages.get(error.status_code, str(error.detail)), headers=headers)


def _elsewhere(path: str) -> str:
    slash = "this one ends in a slash, and ours do not; " if path.endswith("/") else ""
    return f"{slash}GET /openapi.json lists those there are"


def draining() -> ApiError:
    """The refusal of new work by a server that is about to end."""
    return ApiError(
        DRAINING, "this server is shutting down and takes no new requests; ask again", headers={"retry-after": "2"}
    )


def _methods(request: Request) -> str:
    """What the path of a request does take."""

    def taken(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(taken, ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")))


def not_applied() -> ApiError:
    """The refusal of a text whose steering did not happen, or cannot be shown to have happened."""
    return ApiError(
        NOT_APPLIED,
        "steering was asked for but could not be shown to be applied, so no text is returned; "
        "this is a fault of the server",
        headers={"x-should-retry": "false"},
    )


def internal() -> ApiError:
    """The refusal of a request on which we failed."""
    return ApiError(INTERNAL, "the server failed on this request; its log says why, and nothing was returned for it")
