"""The document of the API, without what the framework says of errors and this server does not do."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

STREAM: dict[str, Any] = {
    "description": "The whole answer; with stream its parts, as events whose data are chunks of it, and [DONE].",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
"""The answer of an endpoint that may stream."""

_UNUSED = ("HTTPValidationError", "ValidationError")


def described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return what makes the document of an application: a request that does not fit is answered 400, never 422."""
    made = app.openapi

    def document() -> dict[str, Any]:
        found = made()
        for operations in found["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in _UNUSED:
            found["components"]["schemas"].pop(name, None)
        return found

    return document
