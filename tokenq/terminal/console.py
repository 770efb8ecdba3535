"""Where the command line speaks: messages on standard error, results on standard output, both text and never markup."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from tokenq.terminal.plain_text import one_line, printable


def messages(*, quiet: bool = False) -> Console:
    """Return the console for messages of a running command: standard error, one line of text a message.

    Args:
        quiet: says nothing (all but the first of several processes).
    """
    said = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=quiet)
    said.push_render_hook(_OneLine())
    return said


def screen(wide: int | None = 200) -> Console:
    """Return the console for results: standard output, texts and tables.

    Args:
        wide: columns where neither a terminal nor COLUMNS says how many there are; None leaves that to the environment.
    """
    width = None if Console().is_terminal or "COLUMNS" in os.environ else wide
    shown = Console(highlight=False, markup=False, emoji=False, width=width)
    shown.push_render_hook(_AsItIs())
    return shown


class _OneLine(RenderHook):
    """A hook of a console: each message is one line of printable text."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return the lines to print instead."""
        return [
            Text(one_line(one.plain), one.style, end=one.end) if isinstance(one, Text) else _Printable(one)
            for one in renderables
        ]


class _AsItIs(RenderHook):
    """A hook of a console: texts keep their lines."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return the lines to print instead."""
        return [_Printable(one) for one in renderables]


@dataclass(frozen=True)
class _Printable:
    """Something that is printed, without what acts on a terminal.

    Attributes:
        shown: what is printed.
    """

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield its pieces; those that move the cursor on purpose are rich's own."""
        return _cleaned(console.render(self.shown, options))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return its width."""
        return Measurement.get(console, options, self.shown)


def _cleaned(segments: Iterable[Segment]) -> Iterable[Segment]:
    for segment in segments:
        yield segment if segment.control else Segment(printable(segment.text), segment.style)
