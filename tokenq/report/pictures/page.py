"""Pictures as one HTML page: credit maps of every step and in sum, words in colour, values over words and steps.

The page has no script: it opens from disk, loads nothing and sends nothing. Texts are escaped by the template; pictures
and maps stand in the page as PNG.
"""

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.doctor.finding import shown
from tokenq.files import write_text
from tokenq.records.picture_traces import PictureTrace, ReadPicture
from tokenq.report.doctor_page import HEIGHT, WIDTH, Figure, Line, drawn_figure
from tokenq.report.figure_page import token_view
from tokenq.report.html import ShownToken, parts_of
from tokenq.report.offline import offline_page, writable
from tokenq.report.outcome import shown_table
from tokenq.report.pictures.heat import heat
from tokenq.runs.record import Series
from tokenq.stats.outcome import Table

STYLES = ("theme.css", "tokens.css", "depths.css", "sheet.css", "curves.css", "pictures.css")
"""The parts of the page's style."""

SHOWN = 40
"""Pictures that are shown with their maps, the first ones."""

LISTED = 500
"""Pictures that have a row in the table."""


def picture_page(pictures: Iterable[ReadPicture], *, title: str, record: Mapping[str, Any] = {}) -> str:
    """Return a self-contained HTML page that shows pictures with their credit.

    Args:
        pictures: what to show, in this order.
        title: of the page.
        record: where they come from, as provenance has it.
    """
    views, rows, count = list[dict[str, Any]](), list[list[str | int | float]](), 0
    for one in pictures:
        if count < SHOWN:
            views.append(_view(one, count))
        if count < LISTED:
            rows.append(_row(one.trace))
        count += 1
    text = offline_page(
        "pictures.html.jinja",
        (),
        STYLES,
        title,
        {},
        {**record, "made_by": "tokenq score"},
        table=shown_table(_table(rows, count)),
        pictures=views,
        left_out=count - len(views),
        width=WIDTH,
        height=HEIGHT,
    )
    return writable(text)


def write_picture_page(
    path: Path, pictures: Iterable[ReadPicture], *, title: str, record: Mapping[str, Any] = {}
) -> None:
    """Write the page of `pictures` to `path`, aside and renamed.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    write_text(path, picture_page(pictures, title=title, record=record))


def _table(rows: list[list[str | int | float]], whole: int) -> Table:
    note = "A word's or a step's implicit reward is its β times its log-ratio, policy against reference. "
    note += "Steps of form `errors` are denoising errors at drawn noise levels: estimates, for pictures whose way is "
    note += "not known." if whole <= len(rows) else f"not known. The first {len(rows)} of {whole} pictures."
    return Table("Pictures", ("picture", "asked", "words", "steps", "in sum", "largest step", "form"), rows, note)


def _row(trace: PictureTrace) -> list[str | int | float]:
    steps = trace.step_rewards
    at = int(np.argmax(np.abs(steps)))
    largest = f"{at + 1} (level {trace.levels[at]}): {shown(steps[at])}"
    return [trace.id, trace.prompt, sum(trace.word_rewards), sum(steps), trace.sequence_reward, largest, trace.form]


def _view(one: ReadPicture, place: int) -> dict[str, Any]:
    trace, steps = one.trace, one.trace.step_rewards
    words = trace.word_rewards
    facts = [("implicit reward", shown(trace.sequence_reward))]
    facts += [("words", shown(sum(words))), ("steps", shown(sum(steps)))] if words else []
    named = zip(trace.levels, one.maps, strict=True)
    return {
        "place": place,
        "title": trace.id,
        "facts": facts,
        "prompt": trace.prompt,
        "drawn": trace.drawn_prompt,
        "tokens": [token_view(token) for token in _tokens(trace)],
        "picture": {"source": _embedded(one.png), "name": "picture", "said": trace.drawn_prompt},
        "sum": _map("all steps", one.maps.sum(0)),
        "maps": [_map(f"{at}: level {level}", own) for at, (level, own) in enumerate(named, 1)],
        "figure": _figure(trace),
        "axis": f"actions: {len(words)} words, then {len(steps)} steps" if words else "steps",
    }


def _map(name: str, credit: NDArray[Any]) -> dict[str, str]:
    largest = float(np.abs(credit).max(initial=0.0))
    said = f"{shown(float(credit.sum()))}; up to ±{shown(largest)}"
    return {"source": _embedded(_png(heat(credit))), "name": name, "said": said}


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _tokens(trace: PictureTrace) -> list[ShownToken]:
    """Return the words of the refiner, as deep as their implicit rewards; without colour where none was read."""
    rewards = trace.word_rewards or [0.0] * len(trace.words)
    deepest = max(map(abs, rewards), default=0.0)
    found = []
    for at, (piece, token, reward) in enumerate(zip(trace.words, trace.word_ids, rewards, strict=True)):
        name = piece or f"#{token}"
        said = f"implicit reward {reward:+.4f}, log π {trace.word_logps[at]:+.4f}" if trace.word_logps else "not read"
        found.append(ShownToken(name, parts_of(piece, name), reward / deepest if deepest else 0.0, said, written=True))
    return found


def _figure(trace: PictureTrace) -> Figure | None:
    """Return the value curve over words and denoising steps; an upright line stands where drawing begins."""
    values = trace.prefix_values
    series = Series(np.arange(len(values), dtype=np.int64), np.array(values))
    title = "value so far, over words and steps" if trace.word_rewards else "value so far, over steps"
    return drawn_figure(title, [Line("Σ β log π/π_ref", "first", series)], [len(trace.word_rewards)], dots=60)
