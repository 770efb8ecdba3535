"""Episodes as one HTML page: conversations with heat, values by turn, and the turn that lost each.

The page has no script: it opens from disk, loads nothing and sends nothing. Texts are escaped by the template.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tokenq.files import write_text
from tokenq.records.episodes import Episode
from tokenq.report.doctor_page import HEIGHT, WIDTH
from tokenq.report.episodes.view import episode_row, episode_view
from tokenq.report.offline import offline_page, writable
from tokenq.report.outcome import shown_table
from tokenq.rollout.episodes.summary import PlayNumbers, numbers_of
from tokenq.stats.outcome import Table

STYLES = ("theme.css", "tokens.css", "depths.css", "sheet.css", "curves.css", "episodes.css")
"""The parts of the page's style."""

SHOWN = 40
"""Episodes that are shown turn by turn, the first ones; all of them count in the numbers."""

LISTED = 500
"""Episodes that stand in the table."""


def episode_page(episodes: Iterable[Episode], *, title: str = "tokenq play", record: Mapping[str, Any] = {}) -> str:
    """Return a self-contained HTML page that shows the episodes.

    Args:
        episodes: what to show, in this order; gone through twice.
        title: of the page.
        record: where they come from, as provenance has it.
    """
    numbers, listed = numbers_of(episodes), list(islice(episodes, LISTED))
    some = listed[:SHOWN]
    read = any(turn.implicit is not None for one in some for turn in one.turns)
    text = offline_page(
        "episodes.html.jinja",
        (),
        STYLES,
        title,
        {},
        {**record, "made_by": "tokenq play"},
        numbers=shown_table(_table(numbers)),
        table=shown_table(_list(listed, numbers.episodes)),
        episodes=[episode_view(one, place) for place, one in enumerate(some)],
        left_out=numbers.episodes - len(some),
        read=read,
        width=WIDTH,
        height=HEIGHT,
    )
    return writable(text)


def write_episode_page(path: Path, episodes: Iterable[Episode], *, title: str, record: Mapping[str, Any] = {}) -> None:
    """Write the page of `episodes` to `path`, aside and renamed.

    Args:
        path: where to.
        episodes: what to show, in this order.
        title: of the page.
        record: where they come from, as provenance has it.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    write_text(path, episode_page(episodes, title=title, record=record))


def _table(numbers: PlayNumbers) -> Table:
    actions = max(1, numbers.turns)
    ended = ", ".join(f"{reason} {count}" for reason, count in numbers.ended.items())
    head = ("", "success", "return", "actions", "invalid", "cut actions", "tokens", "ended")
    shares = (numbers.invalid / actions, numbers.truncated / actions)
    row = (
        f"{numbers.episodes} episodes",
        numbers.success,
        numbers.mean_return,
        numbers.turns,
        *shares,
        numbers.tokens,
        ended,
    )
    errors = "; ".join(f"{error} ({count})" for error, count in numbers.errors.items())
    return Table("Numbers", head, [row], f"What environments failed with: {errors}." if errors else "")


def _list(listed: list[Episode], whole: int) -> Table:
    rows = [episode_row(one) for one in listed]
    note = f"The first {len(rows)} of {whole} episodes." if whole > len(rows) else ""
    return Table("Episodes", ("episode", "outcome", "return", "turns", "ended", "the turn that stands out"), rows, note)
