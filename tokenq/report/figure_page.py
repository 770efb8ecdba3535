"""Figures with their claims as one page that opens from disk, as files for papers, and as numbers.

The page has no script and shows what its sections hold: claim, verdict, reading, figures, responses in colour, tables.
Whether a claim came out is not decided here. Without matplotlib the page has no charts, and says what to install.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tokenq.errors import UserError
from tokenq.figures.section import HeatMap, Section
from tokenq.files import plain, write_json, write_text
from tokenq.report.channels import CHANNELS, Channel, largest
from tokenq.report.drawing import INSTALL, installed, save
from tokenq.report.html import ShownToken, shown_tokens, standing_out
from tokenq.report.inline_svg import inline_svg
from tokenq.report.offline import offline_page, writable
from tokenq.report.outcome import figure, shown_table
from tokenq.report.plots import save_figure, wrong_tokens
from tokenq.stats.outcome import Chart, Table

STYLES = ("theme.css", "tokens.css", "depths.css", "sheet.css", "figures.css")
"""The parts of the page's style."""

STEPS = 20
"""Depths that a colour can have on the page, one rule of its style each."""

_FORMS = ("svg", "png")
_FIRST = CHANNELS["implicit_reward"]


def write_figures(
    folder: Path,
    title: str,
    sections: Sequence[Section],
    facts: Mapping[str, str],
    summary: Sequence[Table] = (),
    record: Mapping[str, Any] = {},
) -> Path:
    """Write the page of some figures, their files and their numbers, and return the path of the page.

    Beside `index.html` come NAME-1.svg and NAME-1.png, … for the charts of the section NAME, NAME-heat-1.svg and .png,
    … for its heat maps, and `numbers.json`: all that is shown, estimates as {value, low, high, n}. The page is the last
    that is written.

    Args:
        folder: where to.
        title: of the page.
        sections: the figures with their claims.
        facts: what the reader should know of the run, in a line: seed, versions, seconds.
        summary: tables that stand first.
        record: where the numbers come from; stands first in `numbers.json`.

    Raises:
        UserError: a section's name is no name of a file or is there twice, a stretch of a heat map lies outside its
            response, or the place cannot be written.
    """
    _check(folder, sections)
    drawn = installed()
    shown = [_section(folder, section, drawn) for section in sections]
    write_json(folder / "numbers.json", _numbers(sections, facts, summary, record))
    text = offline_page(
        "figures.html.jinja",
        (),
        STYLES,
        title,
        {},
        record,
        facts=list(facts.items()),
        summary=list(map(shown_table, summary)),
        sections=shown,
        install="" if drawn else INSTALL,
        channel=_FIRST,
    )
    path = folder / "index.html"
    write_text(path, writable(text))
    return path


def _check(folder: Path, sections: Sequence[Section]) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, and figures need a folder there.", "Choose another --output.")
    for section in sections:
        if not re.fullmatch("[A-Za-z]+(-[A-Za-z]+)*", section.name):
            raise UserError(
                f"{section.name!r} names no section: files are named after it.", "Take letters and hyphens."
            )
    names = [section.name for section in sections]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"Two sections are called {twice!r}.", "Give each a name of its own.")


def _section(folder: Path, section: Section, drawn: bool) -> dict[str, Any]:
    """Return a section as the page shows it; draw its files if matplotlib is installed."""
    scales = {name: largest([one.trace for one in section.heat_maps], channel) for name, channel in CHANNELS.items()}
    return {
        "name": section.name,
        "title": section.title,
        "claim": section.claim,
        "verdict": section.verdict,
        "reading": section.reading,
        "charts": [_chart(folder, f"{section.name}-{i}", one) for i, one in enumerate(section.charts, 1) if drawn],
        "heat_maps": [
            _heat_map(one, scales) | {"files": _heat_files(folder, f"{section.name}-heat-{i}", one, scales, drawn)}
            for i, one in enumerate(section.heat_maps, 1)
        ],
        "scale": f"{scales[_FIRST.name]:.2f}",
        "tables": list(map(shown_table, section.tables)),
        "exact": None if section.exact is None else shown_table(section.exact),
        "links": [(link.name, quote(link.path, safe="/#?=&%+,;@~")) for link in section.links],
        "legend": section.legend,
        "panels": [
            (one.caption, [(name, base64.b64encode(png).decode("ascii")) for name, png in one.pictures])
            for one in section.panels
        ],
    }


def _chart(folder: Path, name: str, chart: Chart) -> dict[str, Any]:
    picture = figure(chart)
    for form in _FORMS:
        save(folder / f"{name}.{form}", picture)
    return {"title": chart.title, "svg": inline_svg(picture, name, chart.title), "files": _files(name)}


def _heat_files(
    folder: Path, name: str, one: HeatMap, scales: Mapping[str, float], drawn: bool
) -> list[tuple[str, str]]:
    if not drawn:
        return []
    for form in _FORMS:
        save_figure(folder / f"{name}.{form}", one.trace, _FIRST.name, one.wrong, scales[_FIRST.name])
    return _files(name)


def _files(name: str) -> list[tuple[str, str]]:
    return [(form.upper(), f"{name}.{form}") for form in _FORMS]


def _heat_map(one: HeatMap, scales: Mapping[str, float]) -> dict[str, Any]:
    trace, wrong = one.trace, wrong_tokens(one.trace, one.wrong)

    def text(channel: Channel) -> list[dict[str, Any]]:
        return list(_runs(shown_tokens(trace, channel, scales[channel.name]), wrong))

    worst = [(token.text.strip() or "EOS", _signed(_FIRST.value(token))) for token in standing_out(trace, _FIRST, 3)]
    return {
        "caption": one.caption,
        "prompt": trace.prompt,
        "total": _signed(trace.totals.implicit_reward),
        "worst": worst,
        "text": text(_FIRST),
        "baselines": [(channel, text(channel)) for channel in CHANNELS.values() if channel is not _FIRST],
    }


def _runs(tokens: Sequence[ShownToken], wrong: frozenset[int]) -> Iterator[dict[str, Any]]:
    """Yield neighbouring tokens together, those labelled as wrong apart: one outline goes round them.

    The blank that a token begins with stays outside: it is the word behind it that is wrong.
    """
    for bad, numbered in groupby(enumerate(tokens), lambda one: one[0] in wrong):
        run = [token for _, token in numbered]
        mark, first = run[0].parts[0]
        word = first.lstrip(" ")
        if bad and word and word != first:
            outside = replace(run[0], parts=((mark, first[: -len(word)]),))
            yield {"wrong": False, "tokens": [token_view(outside)]}
            run[0] = replace(run[0], parts=((mark, word), *run[0].parts[1:]))
        yield {"wrong": bad, "tokens": list(map(token_view, run))}


def token_view(token: ShownToken) -> dict[str, Any]:
    """Return a token as templates without script show it: its classes, its numbers in words, its parts."""
    return {"classes": _classes(token), "said": token.said, "parts": _marked(token)}


def _classes(token: ShownToken) -> str:
    depth = round(STEPS * abs(token.share))
    colour = [("positive" if token.share > 0 else "negative"), f"s{depth}"] if depth else []
    return " ".join(["token", *colour, *([] if token.written else ["context"])])


def _marked(token: ShownToken) -> list[tuple[str, str, str]]:
    """Return the parts of a token as (mark, text, class of the mark)."""
    return [(mark, part, "glyph boxed" if len(mark) > 1 else "glyph") for mark, part in token.parts]


def _signed(value: float | None) -> str:
    return f"{value or 0.0:+.3f}".replace("-", "−")


def _numbers(
    sections: Sequence[Section], facts: Mapping[str, str], summary: Sequence[Table], record: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that is shown as JSON has it: where it comes from, facts, summary, and sections by their names."""
    told = plain({**record, "facts": facts, "summary": summary, "sections": {one.name: _told(one) for one in sections}})
    # Half a surrogate pair in a text becomes a question mark, for the file to be UTF-8.
    return dict(json.loads(writable(json.dumps(told, ensure_ascii=False, default=lambda one: plain(list(one))))))


def _told(section: Section) -> dict[str, Any]:
    whole = ("title", "claim", "verdict", "reading", "tables", "charts")
    heat_maps = [
        {
            "caption": one.caption,
            "id": one.trace.id,
            "response": one.trace.response,
            "wrong": list(one.wrong),
            "tokens": [token.text for token in one.trace.tokens],
            "implicit_rewards": [token.implicit_reward for token in one.trace.tokens],
        }
        for one in section.heat_maps
    ]
    return {name: vars(section)[name] for name in whole} | {
        "heat_maps": heat_maps,
        "exact": section.exact,
        "links": section.links,
    }
