"""What all figures have in common: matplotlib when it is needed, colours, and files that repeat byte by byte.

matplotlib is imported when a figure is begun, and no global state of it is touched. What a figure shows is not decided
here.
"""

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError
from tokenq.files import written_aside
from tokenq.report.offline import writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS = (".svg", ".png", ".pdf")
"""Endings that a figure's file can have."""

INSTALL = "pip install matplotlib"
"""What gives a user the figures."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#f0e442")
"""Told apart by everyone (Okabe and Ito)."""

MARKERS = "osD^v<>Px*"
"""As many as colours and one more, so that a curve is told by both; together they last for 90 curves."""

_DPI = 160
_UNDRAWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
"""What an SVG may not hold, and what turns a line round."""


def installed() -> bool:
    """Return whether figures can be drawn at all."""
    try:
        import matplotlib.figure  # noqa: F401 (imported to see whether it can be)
    except ImportError:
        return False
    return True


def blank(width: float, height: float, **given: Any) -> "Figure":
    """Return an empty figure.

    Args:
        width: in inches.
        height: in inches.
        given: what else matplotlib's figure takes.

    Raises:
        UserError: matplotlib is not installed.
    """
    _demand()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **given)


def text_width(text: str, size: float) -> float:
    """Return how wide the longest line of a text is in a figure, in inches, for letters of a size in points.

    Raises:
        UserError: matplotlib is not installed.
    """
    _demand()
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        measure, font = TextToPath().get_text_width_height_descent, FontProperties(size=size)
        return max((float(measure(line, font, False)[0]) / 72 for line in text.split("\n")), default=0.0)


def _demand() -> None:
    if not installed():
        raise UserError("Figures are drawn by matplotlib, which is missing.", INSTALL)


def form_of(path: Path) -> str:
    """Return the form in which a figure is written to a path: "svg", "png" or "pdf".

    Raises:
        UserError: another ending.
    """
    if path.suffix not in FORMS:
        raise UserError(f"{path}: no figure is written in this form.", f"Name it {', '.join(FORMS)}.")
    return path.suffix[1:]


def save(path: Path, drawn: "Figure", made_by: str = "tokenq") -> None:
    """Write a figure to a file, aside and renamed; the same figure gives the same bytes.

    Args:
        path: ends in .svg, .png or .pdf.
        drawn: the figure.
        made_by: the command, as the file names it.

    Raises:
        UserError: another ending, or a place that cannot be written.
    """
    from matplotlib import rc_context

    form = form_of(path)
    said: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": made_by},
        "pdf": {"CreationDate": None, "Creator": made_by},
        "png": {"Software": made_by},
    }
    with rc_context({"svg.hashsalt": "tokenq"}), written_aside(path) as aside, warnings.catch_warnings():
        # Scripts that the font lacks are boxes in a figure; pages show them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        drawn.savefig(aside, format=form, dpi=_DPI, metadata=said[form])


def drawable(text: str) -> str:
    """Return text as a figure can hold it: what has no place in an SVG becomes U+FFFD."""
    return _UNDRAWN.sub("\ufffd", writable(text))
