"""The one place where errors become answers: a status, and the body `{"error", "message", "details"}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dataguardian.api.schemas.common import ErrorOut
from dataguardian.api.schemas.storable import printable
from dataguardian.domain.errors import (
    AccessError,
    CatalogUnavailableError,
    ConflictError,
    DataGuardianError,
    DiskFullError,
    EngineError,
    ForbiddenError,
    NotFoundError,
    NotifierError,
    ObjectMissingError,
    QueueUnavailableError,
    SecretUnreadableError,
    StorageError,
    TargetInUseError,
    TooManyAttemptsError,
    UnauthenticatedError,
    UsageError,
)

log = structlog.get_logger(__name__)

MAX_NAMED_FIELDS = 100
"""Of a body of 80,000 wrong fields, an answer that names each takes seconds to make."""

_STATUS: Mapping[type[DataGuardianError], int] = {
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    TargetInUseError: 409,
    SecretUnreadableError: 409,
    UsageError: 422,
    TooManyAttemptsError: 429,
    CatalogUnavailableError: 503,
    QueueUnavailableError: 503,
    DiskFullError: 503,
    # Something that we depend on did not do what it was asked; the caller did nothing wrong.
    AccessError: 503,
    StorageError: 503,
    EngineError: 503,
    NotifierError: 503,
}
SETUP_PATH = "/api/setup"
_RETRY_AFTER_SECONDS = "5"
_HTTP_WORDS = {
    404: ("not_found", "there is nothing under this address", "GET /api/openapi.json lists every address"),
    405: ("method_not_allowed", "this address does not take that method", "the header Allow names those it takes"),
    413: ("body_too_large", "the body is larger than 1 MB", "send less at once"),
}
_EXAMPLES: Mapping[int, tuple[str, str, str, dict[str, object]]] = {
    401: (
        "Nobody is signed in: there is no token, or it is not valid",
        "unauthenticated",
        "this request does not say who makes it",
        {"hint": "send `Authorization: Bearer dgt_…`"},
    ),
    403: (
        "Refused: the role or the token does not allow it, the Host is not one of ours, or another site sent it",
        "forbidden",
        "anna may not do this: it needs the permission manage",
        {"hint": "ask an administrator for another role or token", "permission": "manage"},
    ),
    404: (
        "There is no such thing",
        "not_found",
        "there is no backup job 0199e0a2-0000-7000-8000-000000000000",
        {"hint": "a list shows what there is"},
    ),
    409: (
        "Not possible in the state that the thing is in; the message says why, and by what it is held",
        "conflict",
        "shop is in use by backup jobs: shop, nightly",
        {"hint": "delete or change those first"},
    ),
    413: ("The body is larger than 1 MB", "body_too_large", "the body is larger than 1 MB", {}),
    415: ("The body is not JSON", "not_json", "the body is not application/json", {"hint": "set Content-Type"}),
    422: (
        "The request is not valid; `details.errors` names each field",
        "validation",
        "the request is not valid: body.name: Field required",
        {"errors": [{"field": "body.name", "message": "Field required", "type": "missing"}]},
    ),
    429: (
        "Too many attempts; the header Retry-After says when the next one is looked at",
        "too_many_attempts",
        "too many sign-ins failed",
        {"hint": "wait, then try again", "retry_after_seconds": 60},
    ),
    503: (
        "The catalogue, the queue or something else that is needed does not answer; try again",
        "catalog_unavailable",
        "the catalogue database does not answer",
        {"hint": "DataGuardian goes on by itself when it is back"},
    ),
}
SCHEMA_NAME = ErrorOut.__name__


def status_of(error: DataGuardianError) -> int:
    """Returns the HTTP status of an error: that of its nearest kind in the table, 500 when there is none."""
    if isinstance(error, ObjectMissingError):
        return 404
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns a route's error answers for the API's document, 401, 403 and 503 among them."""
    return {status: _documented(*_EXAMPLES[status]) for status in sorted({401, 403, 503, *statuses})}


def documented_for_all(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Does the same for a route that is public: 401 only where it is named."""
    return {status: answer for status, answer in documented(*statuses).items() if status in {403, 503, *statuses}}


def _documented(meaning: str, error: str, message: str, details: dict[str, object]) -> dict[str, Any]:
    # By reference: a model here would be built once per route and answer, which makes starting slow.
    schema = {"$ref": f"#/components/schemas/{SCHEMA_NAME}"}
    example = {"error": error, "message": message, "details": details}
    return {"description": meaning, "content": {"application/json": {"schema": schema, "example": example}}}


def error_answer(status: int, error: str, message: str, details: Mapping[str, object] | None = None) -> JSONResponse:
    """Returns an answer in the one shape. Text that UTF-8 cannot carry is replaced, whoever sent it."""
    headers = {"Retry-After": _RETRY_AFTER_SECONDS} if status == 503 else None  # noqa: PLR2004 -- the status itself
    body = {"error": error, "message": message, "details": details or {}}
    return JSONResponse(printable(body), status, headers)


def internal_error(request_id: str) -> JSONResponse:
    return error_answer(
        500,
        "internal",
        "something went wrong in DataGuardian itself",
        {"hint": "the service's log has the details under this request id", "request_id": request_id},
    )


def install(app: FastAPI) -> None:
    app.add_exception_handler(DataGuardianError, _ours)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    refused = "permission.refused" if isinstance(error, ForbiddenError) else None
    if isinstance(error, UnauthenticatedError | TooManyAttemptsError) and request.url.path == SETUP_PATH:
        refused = "setup.refused"
    if refused:
        asked = {"request": [None, f"{request.method} {request.url.path}"], "reason": [None, str(error)]}
        request.app.state.services.refusals.note(refused, changes=asked)
    return answer_of(cast("DataGuardianError", error))


def answer_of(error: DataGuardianError) -> JSONResponse:
    """Returns the answer that an error becomes."""
    status = status_of(error)
    body = error.as_json()
    if status == 500:  # noqa: PLR2004 -- the status itself
        log.error("a request failed", error=error.code, message=error.message, exc_info=error)
    answer = error_answer(status, str(body["error"]), error.message, cast("dict[str, Any]", body["details"]))
    if isinstance(error, UnauthenticatedError):
        answer.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooManyAttemptsError):
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


async def _not_valid(_: Request, error: Exception) -> JSONResponse:
    """Names each field that is wrong, and never repeats what was sent: it may be a password."""
    found = [
        {"field": ".".join(map(str, item["loc"])), "message": item["msg"], "type": item["type"]}
        for item in cast("RequestValidationError", error).errors()[:MAX_NAMED_FIELDS]
    ]
    text = "; ".join(f"{item['field']}: {item['message']}" for item in found[:3])
    return error_answer(422, "validation", f"the request is not valid: {text}", {"errors": found})


async def _http(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses."""
    error = cast("HTTPException", error)
    if error.status_code == 400:  # noqa: PLR2004 -- what the framework says of a body that it cannot read
        return error_answer(422, "validation", "the body is not JSON that can be read", {"errors": []})
    code, message, hint = _HTTP_WORDS.get(error.status_code, ("http", str(error.detail), ""))
    answer = error_answer(error.status_code, code, message, {"hint": hint} if hint else None)
    answer.headers.update(error.headers or {})
    if error.status_code == 405:  # noqa: PLR2004 -- the status itself
        answer.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """Returns every method that an address takes: the framework names those of one route only."""
    routes = [route for route in request.app.state.routes if route.path_regex.match(request.scope["path"])]
    return {method for route in routes for method in route.methods}
