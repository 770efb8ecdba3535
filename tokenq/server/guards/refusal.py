"""Answers that refuse: a status, and an error in the shape that OpenAI's clients read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Send


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered.

    Attributes:
        status: of HTTP.
        message: what is wrong and what to do about it.
        code: the same as a word, for programs; metrics count by it.
        headers: that go with it.
        kind: the `type` of the error.
    """

    status: int
    message: str
    code: str
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "invalid_request_error"

    async def send(self, send: Send) -> None:
        """Answer with it."""
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        body = json.dumps({"error": error}).encode()
        given = {"content-type": "application/json", "content-length": str(len(body)), **self.headers}
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
