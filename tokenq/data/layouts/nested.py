"""Parse lists, records and turns that a cell holds as text: JSON, or Python literals.

CSV has no lists, and a table that went through pandas or a spreadsheet holds `str(value)` instead of JSON. Text that is
meant as turns is never taken literally: nobody wants to learn `[{"role": …`.
"""

import ast
import io
import json
import re
import tokenize
from typing import Any

from tokenq.data.turns import BadRow

LONGEST = 1_000_000
"""Maximum number of characters of a cell that are read as Python writes values; JSON has no such limit."""

_TURNS = re.compile(r"""\s*(?:array\()?\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:""")
_TURN = re.compile(r"""\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")
_NESTED = re.compile(r"\s*(?:array\()?[\[{(]")


def looks_like_turns(value: Any) -> bool:
    """Return whether a cell of text is meant as a list of turns."""
    return isinstance(value, str) and _TURNS.match(value) is not None


def looks_like_turn(value: Any) -> bool:
    """Return whether a cell of text may be one turn."""
    return isinstance(value, str) and _TURN.match(value) is not None


def unpacked(value: Any, name: str) -> Any:
    """Parse a cell of text that is a list or record; None for other text; other values are returned unchanged.

    Args:
        value: the cell.
        name: of its column, for the message.

    Raises:
        BadRow: the text is written as Python or numpy writes values, and cannot be read without guessing.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as problem:
        return _python(value, name, _said(problem)) if _NESTED.match(value) else None


def _python(text: str, name: str, problem: str) -> Any:
    """Parse a Python literal; nothing in it is run."""
    why = f"it is nothing that Python writes either, or longer than {LONGEST:,} characters"
    try:
        if len(text) <= LONGEST and not _joined_texts(text):
            return ast.literal_eval(text.strip())
        why = "numpy prints lists like that" if len(text) <= LONGEST else why
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        pass
    said = f"column {name!r} holds text that is not JSON ({problem}; {why}); write it with json.dumps"
    raise BadRow("a cell that cannot be read", said)


def _joined_texts(text: str) -> bool:
    """Return whether two texts follow each other without a comma, which Python would make one of."""
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
        if token.type == last == tokenize.STRING:
            return True
        last = last if token.type in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT) else token.type
    return False


def _said(problem: Exception) -> str:
    """Return a parser's error in a few words."""
    return "nested too deeply" if isinstance(problem, RecursionError) else str(problem)[:80]
