"""Answers that a judge has given already, on disk: an interrupted run asks nothing twice.

One JSON line an answer, added as it comes. A question is known by a hash, so that the file holds no prompts and no
responses (the judge's answers may quote them), and never a key of an endpoint.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.judge.judging import Comparison, Order


@dataclass(frozen=True)
class Reply:
    """The reply of an endpoint.

    Attributes:
        text: the answer; empty when it gave none.
        cut: whether it was cut at the token limit.
        prompt_tokens: tokens read, 0 where the endpoint does not tell.
        response_tokens: tokens written, 0 where the endpoint does not tell.
        shown: characters that it was shown of each text, where it refused the whole; None where it saw all.
    """

    text: str
    cut: bool
    prompt_tokens: int
    response_tokens: int
    shown: int | None = None


def encodable(text: str) -> str:
    """Return text that UTF-8 can carry: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


class AnswerCache:
    """The answers of a file, and those that are added to it; many threads may add.

    Args:
        path: the file; made by the first answer.

    Raises:
        UserError: a line is none of these answers. A last line that a kill tore is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._lines = JsonLines(path)
        self._replies: dict[str, Reply] = dict(self._read())

    def _read(self) -> Iterator[tuple[str, Reply]]:
        if self._lines.path.is_dir():
            raise UserError(f"{self._lines.path} is a folder.", "Name a file for the judge's answers.")
        # What is added later must not be glued to a torn line.
        self._lines.keep(lambda _: True)
        for number, record in enumerate(self._lines.read(), 1):
            try:
                values = record["text"], record["cut"], record["prompt_tokens"], record["response_tokens"]
                reply = Reply(*values, record.get("shown"))
                kinds = [type(value) for value in (record["key"], *values)]
                if kinds != [str, str, bool, int, int] or not isinstance(reply.shown, int | None):
                    raise TypeError(f"its values are {[kind.__name__ for kind in kinds]}")
            except (KeyError, TypeError) as problem:
                raise UserError(
                    f"{self._lines.path}, line {number} is no answer of a judge: {problem}.",
                    "Delete the line, or name another file.",
                ) from problem
            yield record["key"], reply

    def __contains__(self, key: str) -> bool:
        """Return whether the question was answered."""
        return key in self._replies

    def __getitem__(self, key: str) -> Reply:
        """Return the answer to a question."""
        return self._replies[key]

    def add(self, key: str, model: str, comparison: Comparison, order: Order, reply: Reply) -> None:
        """Write an answer down.

        Args:
            key: the question's.
            model: who answered; for readers of the file, as the next two.
            comparison: what about.
            order: how it was shown.
            reply: the answer.
        """
        with self._lock:
            self._lines.path.parent.mkdir(parents=True, exist_ok=True)
            who = {"key": key, "model": model, "comparison": encodable(comparison.id), "order": order}
            self._lines.append({**who, **vars(reply)})
            self._replies[key] = reply
