"""Traces as figures for papers: the coloured text line by line, and the value curve under it. No page, no screen.

matplotlib is imported when a figure is made, and no global state of it is touched. Cells are of one width, so that a
figure is the same wherever it is made; scripts that need shaping are drawn better by the page's own SVG.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenq.evaluation.token_labels import labels_from_stretches
from tokenq.records.traces import TokenTrace
from tokenq.report.channels import NEGATIVE, POSITIVE, Channel, find_channel, is_read, shares
from tokenq.report.drawing import blank, drawable, form_of, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        token: its number in the response.
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


def figure(
    trace: TokenTrace,
    channel: str | None = None,
    wrong: Sequence[tuple[int, int]] = (),
    scale: float | None = None,
) -> "Figure":
    """Return a figure of one trace: its text coloured by a channel, and its value curve (or that of a reward).

    Args:
        trace: what to draw.
        channel: what the colour stands for; see `tokenq.report.channels.channels_of`. Default: the implicit reward, or
            the reward where a reward model alone has read the response.
        wrong: (start, end) stretches of the response to be outlined, in characters.
        scale: the value of the deepest colour; None: the largest of this trace.

    Raises:
        UserError: an unknown channel, a stretch outside the response, or matplotlib is not installed.
    """
    shown = find_channel(channel, trace)
    outlined = wrong_tokens(trace, wrong)
    pieces = list(lay_out(trace))
    lines = 1 + max((piece.line for piece in pieces), default=0)
    width, text = CELLS * _CELL, lines * _LINE
    whole = (width + 2 * _MARGIN, text + _CURVE + 2.5 * _MARGIN)
    drawn = blank(whole[0] / 72, whole[1] / 72)

    def axes(bottom: float, height: float) -> "Axes":
        return drawn.add_axes((_MARGIN / whole[0], bottom / whole[1], width / whole[0], height / whole[1]))

    words = axes(whole[1] - _MARGIN - text, text)
    words.set(xlim=(0, CELLS), ylim=(lines, 0))
    _draw_text(words, trace, shown, pieces, shares(trace, shown, scale))
    _outline(words, [piece for piece in pieces if piece.token in outlined])
    _draw_curve(axes(_MARGIN, _CURVE), trace, shown)
    return drawn


def save_figure(
    path: Path,
    trace: TokenTrace,
    channel: str | None = None,
    wrong: Sequence[tuple[int, int]] = (),
    scale: float | None = None,
) -> None:
    """Draw a trace into a file, written aside and renamed; the same trace gives the same bytes.

    Args:
        path: ends in .svg, .png or .pdf.
        trace: what to draw.
        channel: what the colour stands for; see `figure`.
        wrong: stretches to be outlined; see `figure`.
        scale: the value of the deepest colour; see `figure`.

    Raises:
        UserError: another ending, an unknown channel, no matplotlib, or a place that cannot be written.
    """
    form_of(path)
    save(path, figure(trace, channel, wrong, scale), "tokenq score")


def wrong_tokens(trace: TokenTrace, wrong: Sequence[tuple[int, int]]) -> frozenset[int]:
    """Return the numbers of the tokens that are in stretches labelled as wrong, as localisation counts them.

    Raises:
        UserError: a stretch is empty, or outside the response.
    """
    written = [number for number, token in enumerate(trace.tokens) if token.written]
    labels = labels_from_stretches(trace, wrong)
    return frozenset(number for number, label in zip(written, labels.tolist(), strict=True) if label)


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


def _draw_text(axes: "Axes", trace: TokenTrace, channel: Channel, pieces: list[Piece], depths: Sequence[float]) -> None:
    from matplotlib.patches import Rectangle

    axes.axis("off")
    for piece in pieces:
        depth = depths[piece.token]
        if abs(depth) >= 0.005:
            corner = (piece.start, piece.line + 0.08)
            ground = Rectangle(corner, piece.width, 0.84, color=(*_colour(depth), _DEEPEST * abs(depth)), linewidth=0)
            axes.add_patch(ground)
        ink = "black" if trace.tokens[piece.token].written else "gray"
        style: dict[str, Any] = {"family": "monospace", "size": _SIZE, "color": ink, "va": "center_baseline"}
        axes.text(piece.start, piece.line + 0.5, drawable(piece.text), parse_math=False, **style)
    reward = f"reward {trace.totals.reward or 0.0:+.3f}"
    totals = f"implicit reward {trace.totals.implicit_reward:+.3f}, β = {trace.beta:g}" if is_read(trace) else reward
    title = f"{trace.id}: {totals}. Colour: {channel.label} {channel.formula}"
    axes.set_title(drawable(title), fontsize=_SIZE, loc="left", parse_math=False)


def _outline(axes: "Axes", pieces: Sequence[Piece]) -> None:
    """Draw a dashed line round pieces, round neighbours on a line together."""
    from matplotlib.patches import Rectangle

    def row(placed: tuple[int, Piece]) -> tuple[int, int]:
        number, piece = placed
        return piece.line, piece.start - sum(one.width for one in pieces[:number] if one.line == piece.line)

    for (line, _), placed in groupby(enumerate(pieces), row):
        run = [piece for _, piece in placed]
        blanks = len(run[0].text) - len(run[0].text.lstrip(" "))  # before the word that is meant
        start, width = run[0].start + blanks, sum(piece.width for piece in run) - blanks
        look: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.1, "linestyle": (0, (3, 1.5))}
        axes.add_patch(Rectangle((start, line + 0.08), width, 0.84, clip_on=False, **look))


def _draw_curve(axes: "Axes", trace: TokenTrace, channel: Channel) -> None:
    """Draw prefix values, 0 before the first token, or what is said of the response so far, from that token on."""
    from matplotlib.collections import LineCollection

    points = [(0, 0.0), *((count, token.prefix_value or 0.0) for count, token in enumerate(trace.tokens, 1))]
    if channel.so_far:
        said = [(count, channel.value(token)) for count, token in enumerate(trace.tokens, 1)]
        points = [(count, value) for count, value in said if value is not None]
    steps = list(pairwise(points))
    colours = [_colour(after - before) if after != before else "gray" for (_, before), (_, after) in steps]
    axes.axhline(0, color="gray", linewidth=0.6)
    axes.add_collection(LineCollection(steps, colors=colours, linewidths=1.5, capstyle="round"))
    axes.autoscale_view()
    axes.set_xlim(0, max(1, len(trace.tokens)))
    axes.set_xlabel("token", fontsize=_SIZE)
    label = f"{channel.label} so far" if channel.so_far else "prefix value (nats)"
    axes.set_ylabel(drawable(label), fontsize=_SIZE, parse_math=False)
    axes.tick_params(labelsize=_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
