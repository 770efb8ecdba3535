"""Text as a terminal is given it: nothing in it acts, and every console can show it. Imports no rich.

What a message holds (paths, names of subsets, texts of a model) cannot move the cursor, colour the screen or begin a
line of its own, and a console that lacks a character shows the nearest that it has.
"""

import codecs
import io
import re
import sys
import unicodedata

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]|\U000e0001"
)
"""What a terminal obeys, what turns a line round, and what no encoding holds; tabs and line ends are not among them."""

_NEAREST = {
    **{"−": "-", "–": "-", "—": "-", "‑": "-", "×": "x", "·": "*", "•": "*", "÷": "/", "′": "'", "″": '"'},
    **{"‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "…": "...", "→": "->", "←": "<-", "↔": "<->", "⇒": "=>"},
    **{
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
        "≈": "~",
        "∞": "inf",
        "√": "sqrt",
        "∑": "sum",
        "Σ": "sum",
        "∈": "in",
        "±": "+-",
    },
    **{"│": "|", "┃": "|", "─": "-", "━": "-", "∅": "{}", "∥": "||", "‖": "||", "✓": "yes", "✗": "no", "█": "#"},
    **{"∈": "in", "±": "+-"},
    **{"∂": "d", "∇": "grad", "°": " degrees", "⌊": "[", "⌋": "]", "⌈": "[", "⌉": "]", "∝": "~", "∼": "~", "∘": "o"},
}


def printable(text: str) -> str:
    r"""Return text in which nothing acts on a terminal: control characters are written out, as \x1b."""
    return _UNSEEN.sub(lambda found: _written_out(found[0]), text)


def one_line(text: str) -> str:
    """Return text as a message holds it: printable, and without line ends of its own."""
    return printable(text).replace("\n", "\\n")


def _written_out(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def complain(prog: str, message: str, hint: str) -> None:
    """Print the error of a command: what happened, and what to do on a line of its own."""
    print(f"{prog}: error: {one_line(message)}" + (f"\n  {one_line(hint)}" if hint else ""), file=sys.stderr)


def fit_streams() -> None:
    """Let standard output and error write characters that their encoding lacks: as the nearest, else by number."""
    codecs.register_error("tokenq.nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tokenq.nearest")


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_in_ascii, text)), error.end


def _in_ascii(character: str) -> str:
    """Return a character as ASCII says it: π as pi, é as e; what it cannot say by its number."""
    if character in _NEAREST:
        return _NEAREST[character]
    name = unicodedata.name(character, "").split()
    if name[:1] == ["GREEK"] and len(name) >= 4:
        return name[3].lower() if name[1] == "SMALL" else name[3].capitalize()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or _written_out(character)
