"""Errors as problem details (RFC 9457): one shape for everything that goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import compile_path

from slipway.changes import ChangesGone
from slipway.errors import (
    AuditBroken,
    CloudError,
    Conflict,
    DatabaseUnavailable,
    EngineRefused,
    EngineUnavailable,
    InvalidInput,
    LeaseLost,
    LifecycleError,
    NotFound,
    SlipwayError,
)

MEDIA_TYPE = "application/problem+json"
#: Where a client may try again by itself, it is told when.
RETRY_AFTER_S = 5

_log = logging.getLogger("slipway.api")


class Where(BaseModel):
    """One thing that is wrong with what was sent."""

    where: str = Field(examples=["server 'Web 1'"])
    what: str = Field(examples=["a name is 1 to 63 lower-case letters, digits and hyphens"])


class ProblemDetails(BaseModel):
    """What went wrong."""

    type: str = Field(
        description="What kind of problem it is; the same for the same kind.",
        examples=["urn:slipway:problem:invalid-input"],
    )
    title: str = Field(description="The kind, in words.", examples=["The input was refused."])
    status: int = Field(description="The HTTP status code.", examples=[422])
    detail: str = Field(
        description="One sentence a line: what, where, and what would be right.",
        examples=["server 'Web 1': a name is 1 to 63 lower-case letters, digits and hyphens"],
    )
    problems: list[Where] = Field(
        default_factory=list, description="Each single thing that is wrong with the input."
    )


class ApiProblem(Exception):
    """Something that only the HTTP side of things knows about."""

    def __init__(
        self, status: int, kind: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})


#: The first that fits counts; what is not here is our fault, and 500.
STATUS: Sequence[tuple[type[SlipwayError], int, str]] = (
    (InvalidInput, 422, "invalid-input"),
    (ChangesGone, 410, "changes-gone"),
    (NotFound, 404, "not-found"),
    (Conflict, 409, "conflict"),
    (LifecycleError, 409, "conflict"),
    (LeaseLost, 409, "conflict"),
    (AuditBroken, 409, "audit-broken"),
    (EngineUnavailable, 503, "engine-unavailable"),
    (EngineRefused, 502, "engine-refused"),
    (CloudError, 502, "cloud"),
)

TITLES: Mapping[str, str] = {
    "invalid-input": "The input was refused.",
    "not-found": "It does not exist.",
    "conflict": "It exists already, or is busy.",
    "audit-broken": "The audit record does not verify.",
    "engine-unavailable": "The engine that runs the flows cannot be reached.",
    "engine-refused": "The engine that runs the flows refused the run.",
    "cloud": "The cloud did not do what it was asked.",
    "cloud-unavailable": "The cloud cannot be asked now.",
    "unauthenticated": "A valid bearer token is needed.",
    "forbidden": "The token lacks a scope.",
    "marker": "The marker is not one of this list.",
    "changes-gone": "The change log does not reach back that far.",
    "key-reused": "The idempotency key was used for something else.",
    "too-large": "The request is too large.",
    "too-many-streams": "Too many event streams are open.",
    "method-not-allowed": "The resource does not know this method.",
    "not-ready": "It cannot serve requests now.",
    "agent-refused": "The agent may not do this.",
    "database": "The database cannot be used now.",
    "internal": "Something went wrong in Slipway.",
    "http": "The request was refused.",
}


def problem_response(
    status: int,
    kind: str,
    detail: str,
    *,
    problems: Sequence[Where] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem as a response."""
    found = ProblemDetails(
        type=f"urn:slipway:problem:{kind}",
        title=TITLES[kind],
        status=status,
        detail=detail,
        problems=list(problems),
    )
    return JSONResponse(
        found.model_dump(), status_code=status, media_type=MEDIA_TYPE, headers=headers
    )


def status_of(error: SlipwayError) -> tuple[int, str]:
    """The HTTP status and the kind of problem that stand for an error of the domain."""
    status, kind = next(
        ((status, kind) for type_, status, kind in STATUS if isinstance(error, type_)),
        (500, "internal"),
    )
    if kind == "cloud" and error.retryable:
        return 503, "cloud-unavailable"
    return status, kind


def from_error(error: SlipwayError) -> Response:
    """An error of the domain as a response."""
    status, kind = status_of(error)
    headers: dict[str, str] = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("a request failed", exc_info=error)
    problems = []
    if isinstance(error, InvalidInput):
        problems = [Where(where=each.where, what=each.what) for each in error.problems]
    return problem_response(status, kind, str(error), problems=problems, headers=headers)


def install(app: FastAPI) -> None:
    """Let every error of this application end as a problem."""
    app.add_exception_handler(ApiProblem, _on_api_problem)
    app.add_exception_handler(SlipwayError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(DatabaseUnavailable, _on_database)
    app.add_exception_handler(Exception, _on_surprise)


def _on_api_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiProblem)
    return problem_response(error.status, error.kind, error.detail, headers=error.headers)


def _on_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, SlipwayError)
    return from_error(error)


def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Pydantic's own errors carry what was given: it may be a secret and is left out.
    problems = [Where(where=_place(each["loc"]), what=str(each["msg"])) for each in error.errors()]
    detail = "\n".join(f"{each.where}: {each.what}" for each in problems)
    return problem_response(422, "invalid-input", detail, problems=problems)


def on_http(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself, as a problem."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # FastAPI's word for bytes that are not even text; what is wrong in text is 422 as well.
        return problem_response(422, "invalid-input", "the body is not JSON in UTF-8")
    kinds = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path} does not know {request.method}"
    kind = kinds.get(error.status_code, "http")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods_of(request))
    return problem_response(error.status_code, kind, detail, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """Every method that the path of a request knows: it may be several routes."""
    found: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        if context.path is not None and compile_path(context.path)[0].match(request.url.path):
            found |= context.methods or set()
    return sorted(found)


def _on_database(_request: Request, error: Exception) -> Response:
    # What it says stays here: it may name the host.
    _log.warning("%s", error)
    detail = "try again; what has an Idempotency-Key is done once, however often it is asked for"
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem_response(503, "database", detail, headers=headers)


def _on_surprise(_request: Request, _error: Exception) -> Response:
    # Starlette logs it, with its traceback. What it says stays here: it may name anything.
    return problem_response(500, "internal", "see the log of the API for what it was")


def _place(loc: Sequence[Any]) -> str:
    """``body.inputs.PORT``, of text that can be sent: names of fields are the caller's."""
    return ".".join(str(part) for part in loc).encode("utf-8", "replace").decode()


_WORDS = {
    400: ("marker", "The marker, or what it is used with, is not valid."),
    401: ("unauthenticated", "There is no valid bearer token."),
    403: ("forbidden", "The token lacks the scope."),
    404: ("not-found", "It does not exist."),
    409: ("conflict", "It exists already, or is busy."),
    410: ("changes-gone", "The change log does not reach back that far: read the lists anew."),
    413: ("too-large", "The body is too large."),
    422: ("invalid-input", "The input was refused; nothing was changed."),
    429: ("too-many-streams", "Too many event streams are open."),
    502: ("cloud", "The cloud did not do what it was asked."),
    503: ("engine-unavailable", "It cannot be done now; try again."),
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an operation's description says of its errors."""
    return {
        status: {
            "description": _WORDS[status][1],
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                    "example": {
                        "type": f"urn:slipway:problem:{_WORDS[status][0]}",
                        "title": TITLES[_WORDS[status][0]],
                        "status": status,
                        "detail": _WORDS[status][1],
                        "problems": [],
                    },
                }
            },
        }
        for status in statuses
    }


def streamed(description: str, media_type: str, example: str) -> dict[int | str, dict[str, Any]]:
    """What an operation's description says of an answer that is not JSON."""
    content = {media_type: {"schema": {"type": "string"}, "example": example}}
    return {200: {"description": description, "content": content}}
