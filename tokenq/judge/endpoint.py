"""One request to an OpenAI-compatible endpoint: sent again while that may help, and given up in words when not.

The `openai` client is imported when the first question is asked. Its own retries are switched off: waiting happens
here, where it can be broken off, and follows what the server asks for. The key is taken from the environment or given,
goes into the header of a request, and into no message, log or file.
"""

import email.utils
import ipaddress
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from tokenq.errors import UserError
from tokenq.judge.cache import Reply, encodable

Answer = TypeVar("Answer")

OPENAI = "https://api.openai.com/v1"

_AGAIN = {408, 409, 425, 429}
_BY_QUESTION = {400, 403, 413, 414, 415, 422, 431, 451}
"""Statuses that may be about one question (it is too long, or offends), while others are answered."""


class Refused(Exception):
    """The endpoint will not answer this question, whatever it says to others."""


class Down(Exception):
    """The endpoint does not answer, after all attempts."""


class Stopped(Exception):
    """Another question found the endpoint down, or a person broke it off."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and how patiently.

    Attributes:
        model: its name there.
        base_url: up to and with /v1; None takes OPENAI_BASE_URL, else OpenAI's own.
        api_key: None takes the environment's; an endpoint on this machine or network may go without.
        timeout: seconds until a request without an answer is given up.
        attempts: how often a question is asked before the endpoint counts as down.
        backoff: seconds before the second attempt, doubled each time, of which a random part is taken off.
        longest_wait: seconds; where the server asks to wait longer, it counts as down.
        role: what it is called in messages.
        key_variable: the variable of the environment that holds the key. A key of one server is sent to no other.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 120.0
    attempts: int = 7
    backoff: float = 1.0
    longest_wait: float = 120.0
    role: str = "judge"
    key_variable: str = "OPENAI_API_KEY"

    @property
    def url(self) -> str:
        """Return the base URL.

        Raises:
            UserError: it is none.
        """
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise UserError(
                f"The {self.role}'s base URL {url!r} is no web address.", "It reads like https://api.openai.com/v1."
            )
        return url

    @property
    def shown(self) -> str:
        """Return the base URL for messages, without a password that may stand in it."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    def key(self) -> str:
        """Return the key to send.

        Raises:
            UserError: there is none and the endpoint is not local, or it has characters that no header may have.
        """
        key = (self.api_key or os.environ.get(self.key_variable) or "").strip()
        if not key:
            if _is_local(urlsplit(self.url).hostname or ""):
                return "none"
            raise UserError(
                f"The {self.role} at {self.shown} needs a key.",
                f"Set {self.key_variable}; only an endpoint on this machine or network may go without.",
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(
                f"The {self.role}'s key has spaces, line breaks or characters outside ASCII.",
                f"Set {self.key_variable} to the key alone.",
            )
        return key


class Connection(AbstractContextManager["Connection"]):
    """Asks questions of an endpoint; many threads may share one, and leaving it closes the client.

    Args:
        endpoint: where.

    Raises:
        UserError: the client is not installed, or there is no key.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            from openai import OpenAI
        except ImportError as problem:
            raise UserError(
                f"A {endpoint.role} behind an endpoint needs the openai client.", "pip install 'tokenq[judge]'"
            ) from problem
        self._endpoint = endpoint
        self._key = endpoint.key()
        self._stop = threading.Event()
        self._closing = ExitStack()
        self._client: OpenAI = self._closing.enter_context(
            OpenAI(api_key=self._key, base_url=endpoint.url, timeout=endpoint.timeout, max_retries=0)
        )

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self._closing.close()

    def stop(self) -> None:
        """Let no further attempt begin."""
        self._stop.set()

    def ask(self, question: str, parameters: Mapping[str, Any]) -> Reply:
        """Return the answer to a question.

        Args:
            question: the one message of the user.
            parameters: further fields of the request (temperature, max_tokens, whatever the server knows).

        Raises:
            Refused: the endpoint finds fault with this question.
            Down: it did not answer in all attempts; no further question is then asked.
            UserError: it answers nobody (wrong key, unknown model, wrong address); the same.
            Stopped: `stop` was called, or another question ended so.
        """
        message = {"role": "user", "content": encodable(question)}
        body = {"model": self._endpoint.model, "messages": [message], **parameters}
        return self.send("/chat/completions", body, _read)

    def send(self, path: str, body: Mapping[str, Any] | None, read: Callable[[str], Answer]) -> Answer:
        """Return what `read` makes of the answer to a request, which must do no harm when it is sent twice.

        Args:
            path: below the base URL, or a whole URL.
            body: what is posted; None to get.
            read: takes the text of the answer; where it finds none in it (ValueError, LookupError, TypeError,
                AttributeError), another attempt is made.

        Raises:
            Refused, Down, UserError, Stopped: as `ask`.
        """
        try:
            return self._sent(path, body, read)
        except (Down, UserError):
            # At once, and not when somebody looks at the result: other threads take up questions meanwhile.
            self.stop()
            raise

    def _sent(self, path: str, body: Mapping[str, Any] | None, read: Callable[[str], Answer]) -> Answer:
        problem = "no attempt was made"
        for attempt in range(self._endpoint.attempts):
            if self._stop.is_set():
                raise Stopped
            try:
                return _found(self._once(path, body), read)
            except _Passing as passing:
                problem, wait = str(passing), passing.wait
            if wait is not None and wait > self._endpoint.longest_wait:
                raise Down(f"{problem}, and asks to wait {wait:.0f} s")
            if attempt + 1 < self._endpoint.attempts:
                # The random part keeps requests that failed together from coming back together.
                pause = min(self._endpoint.backoff * 2**attempt, self._endpoint.longest_wait)
                part = pause * random.uniform(0.5, 1.0)
                self._stop.wait(part if wait is None else wait + 0.1 * part)
        raise Down(f"{problem} ({self._endpoint.attempts} attempts)")

    def _once(self, path: str, body: Mapping[str, Any] | None) -> str:
        import openai

        try:
            # The raw answer: what the client makes of a malformed one differs from version to version.
            if body is None:
                return str(self._client.get(path, cast_to=str))
            return str(self._client.post(path, body=dict(body), cast_to=str))
        except openai.APITimeoutError:
            raise _Passing(f"no answer within {self._endpoint.timeout:g} s") from None
        except openai.APIConnectionError as problem:
            raise _Passing(f"no connection: {self._without_key(problem.__cause__ or problem)}") from None
        except openai.APIStatusError as problem:
            said = problem.body.get("message") if isinstance(problem.body, dict) else None
            self._give_up_or_not(
                problem.status_code, self._without_key(said or problem.response.text), problem.response.headers
            )

    def _give_up_or_not(self, status: int, said: str, headers: Mapping[str, str]) -> NoReturn:
        if status in _AGAIN or status >= 500:
            raise _Passing(f"status {status}: {said}", _asked_wait(headers)) from None
        if status in _BY_QUESTION:
            raise Refused(f"refused with status {status}: {said}") from None
        hints = {
            401: f"Set {self._endpoint.key_variable} to a key that is valid there.",
            404: f"Check the base URL (most end in /v1) and the model's name, {self._endpoint.model!r}.",
        }
        raise UserError(
            f"The {self._endpoint.role} at {self._endpoint.shown} answers with status {status}: {said}.",
            hints.get(status, "Check the base URL, the model's name and the key."),
        ) from None

    def _without_key(self, problem: object) -> str:
        """Return a message in one line, without the key, which some servers repeat in whole or in part."""
        said = " ".join(str(problem).split())[:300].rstrip(".")
        return said if self._key == "none" else re.sub(re.escape(self._key[:8]) + r"\S*", "[key]", said)


class _Passing(Exception):
    """Another attempt may help.

    Args:
        problem: what happened.
        wait: seconds that the server asks to wait, if it does.
    """

    def __init__(self, problem: str, wait: float | None = None) -> None:
        super().__init__(problem)
        self.wait = wait


def _found(text: str, read: Callable[[str], Answer]) -> Answer:
    """Return what is read in an answer; one that holds nothing is a fault of the server, which may pass."""
    try:
        return read(text)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _Passing(f"a malformed answer: {' '.join(text.split())[:100]!r}") from None


def _read(text: str) -> Reply:
    """Return the message in the body of an answer."""
    body = json.loads(text)
    choice = body["choices"][0]
    content = choice["message"].get("content")
    if not isinstance(content, str | None):
        raise TypeError
    usage = body.get("usage") or {}
    tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    counted = [count if type(count) is int else 0 for count in tokens]
    return Reply(encodable(content or ""), choice.get("finish_reason") == "length", *counted)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (a number or a date), or None."""
    said = headers.get("retry-after", "")
    try:
        wait = float(said)
    except ValueError:
        moment = email.utils.parsedate_tz(said)
        wait = email.utils.mktime_tz(moment) - time.time() if moment else -1.0
    return wait if wait >= 0 else None


def _is_local(host: str) -> bool:
    """Return whether a host is this machine or its network: a private address, or a name without a dot."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".localhost"))
    return address.is_loopback or address.is_private
