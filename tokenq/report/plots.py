"""Traces as figures for papers: the coloured text line by line, and the value curve under it. No page, no screen.

matplotlib is imported when a figure is made, and no global state of it is touched. Cells are of one width, so that a
figure is the same wherever it is made; scripts that need shaping are drawn better by the page's own SVG.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.errors import UserError
from tokenq.files import written_aside
from tokenq.report.channels import NEGATIVE, POSITIVE, Channel, find_channel, shares
from tokenq.traces import TokenTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMS = (".svg", ".png", ".pdf")
"""Endings that `save_figure` knows."""

CELLS = 96
"""Characters in a line."""

_SIZE = 9.0  # of the letters, in points
_CELL = 0.602 * _SIZE  # width of a character of DejaVu Sans Mono
_LINE = 1.75 * _SIZE
_CURVE = 130.0
_MARGIN = 48.0
_DEEPEST = 0.72


@dataclass(frozen=True)
class Piece:
    """Part of a token on one line.

    Attributes:
        token: its number.
        text: what is drawn.
        line: the line it stands on.
        start: first cell.
        width: cells.
    """

    token: int
    text: str
    line: int
    start: int
    width: int


def figure(trace: TokenTrace, channel: str = "implicit_reward") -> "Figure":
    """Return a figure of one trace: its text coloured by a channel, and its value curve.

    Args:
        trace: what to draw.
        channel: what the colour stands for; see `tokenq.report.channels.CHANNELS`.

    Raises:
        UserError: an unknown channel, or matplotlib is not installed.
    """
    shown = find_channel(channel)
    try:
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise UserError(
            "Figures are drawn by matplotlib, which is missing.", "pip install 'tokenq[plots]'"
        ) from problem
    pieces = list(lay_out(trace))
    lines = 1 + max((piece.line for piece in pieces), default=0)
    width, text = CELLS * _CELL, lines * _LINE
    whole = (width + 2 * _MARGIN, text + _CURVE + 2.5 * _MARGIN)
    drawn = Figure(figsize=(whole[0] / 72, whole[1] / 72))

    def axes(bottom: float, height: float) -> "Axes":
        return drawn.add_axes((_MARGIN / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))

    _draw_text(axes(whole[1] - _MARGIN - text, text), trace, shown, pieces, lines)
    _draw_curve(axes(_MARGIN, _CURVE), trace)
    return drawn


def save_figure(path: Path, trace: TokenTrace, channel: str = "implicit_reward") -> None:
    """Draw a trace into a file, written aside and renamed; the same trace gives the same bytes.

    Args:
        path: ends in .svg, .png or .pdf.
        trace: what to draw.
        channel: what the colour stands for.

    Raises:
        UserError: another ending, an unknown channel, no matplotlib, or a place that cannot be written.
    """
    if path.suffix not in FORMS:
        raise UserError(f"{path}: no figure is written in this form.", f"Name it {', '.join(FORMS)}.")
    drawn = figure(trace, channel)
    from matplotlib import rc_context

    undated: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[path.suffix]
    with rc_context({"svg.hashsalt": "tokenq"}), written_aside(path) as aside:
        drawn.savefig(aside, format=path.suffix[1:], dpi=160, metadata=undated)


def lay_out(trace: TokenTrace) -> Iterator[Piece]:
    """Yield the pieces of a response in lines of `CELLS` characters; a line end in the text ends a line."""
    line, cell = 0, 0
    for number, token in enumerate(trace.tokens):
        name = "EOS" if trace.terminal and number == len(trace.tokens) - 1 else ""
        for part in re.findall(r"\n|[^\n]{1,40}", token.text) or [f"[{name}]" if name else ""]:
            text = "↵" if part == "\n" else part.replace("\t", "    ")
            width = sum(map(_cells, text))
            if cell and cell + width > CELLS:
                line, cell = line + 1, 0
            yield Piece(number, text, line, cell, width)
            cell += width
            if part == "\n":
                line, cell = line + 1, 0


def _cells(letter: str) -> int:
    """Return the width of a character as a terminal has it."""
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _colour(signed: float) -> tuple[float, float, float]:
    red, green, blue = POSITIVE if signed > 0 else NEGATIVE
    return red / 255, green / 255, blue / 255


def _draw_text(axes: "Axes", trace: TokenTrace, channel: Channel, pieces: list[Piece], lines: int) -> None:
    from matplotlib.patches import Rectangle

    axes.set(xlim=(0, CELLS), ylim=(lines, 0))
    axes.axis("off")
    depths = shares(trace, channel)
    for piece in pieces:
        depth = depths[piece.token]
        if abs(depth) >= 0.005:
            corner = (piece.start, piece.line + 0.08)
            ground = Rectangle(corner, piece.width, 0.84, color=(*_colour(depth), _DEEPEST * abs(depth)), linewidth=0)
            axes.add_patch(ground)
        ink = "black" if trace.tokens[piece.token].written else "gray"
        style: dict[str, Any] = {"family": "monospace", "size": _SIZE, "color": ink, "va": "center_baseline"}
        axes.text(piece.start, piece.line + 0.5, piece.text, parse_math=False, **style)
    totals = f"implicit reward {trace.totals.implicit_reward:+.3f}, β = {trace.beta:g}"
    title = f"{trace.id}: {totals}. Colour: {channel.label} {channel.formula}"
    axes.set_title(title, fontsize=_SIZE, loc="left", parse_math=False)


def _draw_curve(axes: "Axes", trace: TokenTrace) -> None:
    """Draw the prefix values, 0 before the first token, each step coloured by its sign."""
    from matplotlib.collections import LineCollection

    values = [0.0, *(token.prefix_value or 0.0 for token in trace.tokens)]
    steps = list(pairwise(enumerate(values)))
    colours = [_colour(after - before) if after != before else "gray" for (_, before), (_, after) in steps]
    axes.axhline(0, color="gray", linewidth=0.6)
    axes.add_collection(LineCollection(steps, colors=colours, linewidths=1.5, capstyle="round"))
    axes.autoscale_view()
    axes.set_xlim(0, max(1, len(steps)))
    axes.set_xlabel("token", fontsize=_SIZE)
    axes.set_ylabel("prefix value (nats)", fontsize=_SIZE)
    axes.tick_params(labelsize=_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
