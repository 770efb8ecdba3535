"""A scripted opponent at Nim: `--environment-options game=Nim-v0 opponent=bench/nim.py:first_move`."""

import random
import re


def first_move(seen: str, draws: random.Random) -> str:
    """Take one of the first pile that is left."""
    return moves(seen)[0]


def moves(seen: str) -> list[str]:
    """Return the possible moves in the piles that were shown last."""
    shown = seen.rpartition("Current Pile:")[2]
    piles = re.findall(r"pile (\d+): (\d+)", shown)
    return [f"[{pile} {taken}]" for pile, size in piles for taken in range(1, int(size) + 1)]
