"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}, whatever went wrong."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from tokenq.errors import UserError, fitting
from tokenq.server.engine.request import Closed, Full

_LOG = logging.getLogger("tokenq.server")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The answer to a request that cannot be done."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request cannot be meant: `param` names what is wrong."},
    404: {"model": ErrorBody, "description": "There is no such model."},
    429: {"model": ErrorBody, "description": "Too many requests wait already; `Retry-After` says for how long."},
    503: {"model": ErrorBody, "description": "The server is going down."},
    "4XX": {
        "model": ErrorBody,
        "description": "The request is refused before anything reads it: a key, a size, a host.",
    },
    "5XX": {"model": ErrorBody, "description": "The server has failed; its log says why."},
}
"""Answers that every endpoint may give beside its own."""

NEUTRAL = frozenset(
    ("presence_penalty", "frequency_penalty", "repetition_penalty", "suffix", "refusal", "audio", "function_call")
)
"""Fields that may have one value only, which changes nothing."""

RETRY_AFTER = "1"
"""Seconds after which to ask again: a queue moves on with every response that ends."""

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
"""The type of an error by its status."""


class ApiError(Exception):
    """A request that cannot be done.

    Args:
        message: what is wrong, and what to do.
        status: of the answer.
        param: the field that is wrong, as the request has it.
        code: for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        message = message.encode("utf-8", "replace").decode()  # it may repeat what no UTF-8 can say
        param = None if param is None else param.encode("utf-8", "replace").decode()
        self.message, self.status, self.param, self.code = message, status, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the error as JSON has it."""
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def unsupported(param: str, why: str) -> ApiError:
    """Return the error for a field that is known elsewhere and has no effect here.

    Args:
        param: its name.
        why: what it would take.
    """
    return ApiError(f"{param} is not supported: {why}", param=param, code="unsupported_parameter")


def of_user(problem: UserError, param: str | None = None) -> ApiError:
    """Return a mistake of the user as an answer; a flag in it is named as the field that it is here."""
    said = f"{problem.message} {fitting(problem.hint, ())}".strip()
    flag = _FLAG.search(problem.message)
    named = param or (None if flag is None else flag[1].replace("-", "_"))
    return ApiError(_FLAG.sub(lambda found: found[1].replace("-", "_"), said), param=named)


_FLAG = re.compile(r"--([a-z][a-z-]*)")


def of_any(problem: BaseException) -> ApiError:
    """Return whatever was raised as an answer; what nobody foresaw is logged, and not told."""
    if isinstance(problem, ApiError):
        return problem
    if isinstance(problem, UserError):
        return of_user(problem)
    if isinstance(problem, Full):
        said = "Too many requests are waiting. Ask again later."
        return ApiError(said, status=429, code="rate_limit_exceeded", headers={"Retry-After": RETRY_AFTER})
    if isinstance(problem, Closed):
        return ApiError("The server is going down.", status=503, code="service_unavailable")
    _LOG.error("A request has failed.", exc_info=problem)
    return ApiError("The server has failed at this; its log says why.", status=500, code="internal_error")


def add_handlers(app: FastAPI) -> None:
    """Have an application answer every error in OpenAI's shape."""

    async def any_error(request: Request, problem: Exception) -> JSONResponse:
        return of_any(problem).response()

    async def invalid(request: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, RequestValidationError)  # it is registered for these alone
        return _of_validation(problem).response()

    async def http(request: Request, problem: Exception) -> JSONResponse:
        assert isinstance(problem, HTTPException)
        return _of_http(request, problem).response()

    for kind in (ApiError, UserError, Full, Closed, Exception):
        app.add_exception_handler(kind, any_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _of_http(request: Request, problem: HTTPException) -> ApiError:
    """Return an error of the framework: no such path, another method."""
    said = {
        404: f"There is no {request.url.path}. /openapi.json lists what there is.",
        405: f"{request.url.path} does not take {request.method}.",
    }.get(problem.status_code, str(problem.detail))
    return ApiError(said, status=problem.status_code, headers=problem.headers)


def _of_validation(problem: RequestValidationError) -> ApiError:
    """Return a request that does not fit its schema as an answer that names the field."""
    first = _telling(problem.errors())
    where = [part for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] in ("json_invalid", "missing") and not any(isinstance(part, str) for part in where):
        if first["type"] == "missing":
            return ApiError("The request has no body. Send JSON, with Content-Type: application/json.")
        return ApiError(f"The body is not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}.")
    param = ".".join(str(part) for part in where if not _is_variant(part)) or None
    if first["type"] == "unknown":
        name = first["ctx"]["name"]
        param = name if param is None else f"{param}.{name}"
        return ApiError(f"Unknown parameter: {param}. {first['msg']}", param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(f"Missing parameter: {param}.", param=param, code="missing_required_parameter")
    if where and where[-1] in NEUTRAL and first["type"] in ("greater_than_equal", "less_than_equal", "none_required"):
        return unsupported(str(param), "leave it out.")
    msg = first["msg"].removeprefix("Value error, ")
    return ApiError(f"{param or 'The body'}: {msg}", param=param, code="invalid_value")


def _telling(found: Any) -> Any:
    """Return the error that says most: of several readings of a field the one that the value is nearest to."""
    return max(found, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))


def _is_variant(part: Any) -> bool:
    """Return whether a part of a place names a reading of a field (`str`, `list[int]`), and no field."""
    return isinstance(part, str) and (part[:1].isupper() or part in ("str", "int") or "[" in part or "-" in part)
