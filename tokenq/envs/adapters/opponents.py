"""Scripted opponents: what plays the other side of a game of two."""

import random
import re
from collections.abc import Callable

from tokenq.errors import unknown_name
from tokenq.judge.function import load_callable

Opponent = Callable[[str, random.Random], str]
"""(what the player sees, where its draws come from) → its move."""

_MOVE = re.compile(r"\[[^\[\]\n]+\]")

_MOVERS: dict[str, Callable[[tuple[str, ...], random.Random], str]] = {
    "random": lambda moves, draws: draws.choice(moves),
    "first": lambda moves, _: moves[0],
}


def find_opponent(name: str) -> Opponent:
    """Return an opponent that takes a random or the first of the moves that it sees, or the function of a file.

    Raises:
        UserError: there is none of that name.
    """
    if ":" in name:
        found: Opponent = load_callable(name, "--environment-options opponent=")
        return found
    if name not in _MOVERS:
        raise unknown_name("opponent", name, [*_MOVERS, "FILE.py:FUNCTION"])
    mover = _MOVERS[name]
    return lambda seen, draws: mover(moves_in(seen) or ("[pass]",), draws)


def moves_in(seen: str) -> tuple[str, ...]:
    """Return the moves that a text lists: those behind its last "available", else all that it names in brackets."""
    found = _MOVE.findall(seen[max(seen.lower().rfind("available"), 0) :])
    return tuple(dict.fromkeys(found))
