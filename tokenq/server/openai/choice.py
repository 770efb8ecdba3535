"""One response as it is written: what may be shown of it by now, where it is cut, and which of its tokens that shows.

Text is held back while it may belong to a character that is not complete, or to a stop text; so whoever reads a stream
sees what whoever waits for the end sees.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenq.data.encoding import Pieces
from tokenq.server.engine.request import Token


class Placed(NamedTuple):
    """A token in its place.

    Attributes:
        token: as it was written.
        offset: where its piece begins in the response, in characters.
    """

    token: Token
    offset: int


class Delta(NamedTuple):
    """What has come of a response since the last time.

    Attributes:
        text: its text.
        tokens: those that are shown by it.
        finish: why the response is over; None where it goes on.
    """

    text: str
    tokens: tuple[Placed, ...]
    finish: str | None = None

    def __bool__(self) -> bool:
        """Return whether anything has come."""
        return bool(self.text or self.tokens or self.finish)


class Choice:
    """A response that is being written.

    Args:
        tokenizer: of the policy.
        prompt: token ids before it.
        stops: texts before which it is cut.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._pieces, self._stops = Pieces(tokenizer, prompt), tuple(stops)
        self._text = ""
        self._sent = 0
        self._held: list[Placed] = []
        self.count = 0
        self.over = False

    def take(self, token: Token) -> Delta:
        """Return what a further token shows; nothing once the response is over."""
        if self.over:
            return Delta("", ())
        self.count += 1
        self._held.append(Placed(token, len(self._text)))
        self._text += self._pieces.of(token.id)
        if token.finish is not None:
            self._text += self._pieces.rest()[1]
        cut = first_stop(self._text, self._stops, self._sent)
        if cut is not None:
            return self._end(cut, "stop")
        if token.finish is not None:
            return self._end(len(self._text), token.finish, whole=True)
        return self._up_to(len(self._text) - held_back(self._text[self._sent :], self._stops))

    def close(self, finish: str) -> Delta:
        """End the response where it is, without a further token."""
        if self.over:
            return Delta("", ())
        self._text += self._pieces.rest()[1]
        return self._end(len(self._text), finish, whole=True)

    def _end(self, cut: int, finish: str, whole: bool = False) -> Delta:
        """Return the rest of the response up to a place; `whole` shows the tokens without text at its end as well."""
        self.over = True
        shown = tuple(one for one in self._held if whole or one.offset < cut)
        text, self._sent = self._text[self._sent : cut], cut
        return Delta(text, shown, finish)

    def _up_to(self, safe: int) -> Delta:
        shown = tuple(one for one in self._held if one.offset < safe)
        self._held = self._held[len(shown) :]
        text, self._sent = self._text[self._sent : safe], safe
        return Delta(text, shown)


def first_stop(text: str, stops: Sequence[str], start: int = 0) -> int | None:
    """Return where the stop text begins that is complete first, the longer of two that end together.

    Args:
        text: what was written.
        stops: none of them empty.
        start: no stop text begins before.
    """
    found = [(place + len(stop), place) for stop in stops if (place := text.find(stop, start)) >= 0]
    return min(found)[1] if found else None


def held_back(text: str, stops: Sequence[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop text."""
    longest = min(len(text), max(map(len, stops), default=1) - 1)
    return next((size for size in range(longest, 0, -1) if _begins(text[-size:], stops)), 0)


def _begins(end: str, stops: Sequence[str]) -> bool:
    return any(len(stop) > len(end) and stop.startswith(end) for stop in stops)
