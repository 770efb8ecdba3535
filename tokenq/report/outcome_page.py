"""An evaluation as a page that opens from disk: tables, figures, and its examples, each beside its heat map.

The heat maps are the page of traces, written beside this one; labelled stretches are outlined there. A page without
traces lists its examples alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tokenq.doctor.finding import shown
from tokenq.files import write_text
from tokenq.records.examples import Response
from tokenq.records.traces import TokenTrace
from tokenq.report.drawing import installed
from tokenq.report.html import page
from tokenq.report.inline_svg import inline_svg
from tokenq.report.offline import offline_page
from tokenq.report.outcome import figure, said, shown_table
from tokenq.score.spans import Cut, spans_of, together
from tokenq.stats.outcome import ListedExample, Outcome

LISTED = 500
"""Examples that a page lists; the JSON has all numbers."""

SHOWN = 200
"""Of them, those whose traces are shown, for the size of the page."""


def write_outcome_page(
    path: Path,
    outcome: Outcome,
    traces: Iterable[TokenTrace] = (),
    title: str = "",
    record: Mapping[str, Any] = {},
) -> None:
    """Write the page of an outcome, and beside it the page of its traces where it has any.

    Args:
        path: where to.
        outcome: what to show.
        traces: of the examples, by their ids.
        title: of the page. Default: the name of the task.
        record: where the outcome comes from, as provenance has it, with the command in "made_by".

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    beside = path.with_name(f"{path.stem}-traces.html")
    listed = outcome.examples[:LISTED]
    kept = _kept(listed[:SHOWN], traces)
    if kept:
        wrong = {one.id: one.wrong for one in listed}
        marked = [_marked(trace, wrong.get(trace.id, ())) for trace in kept]
        write_text(beside, page(marked, f"{outcome.task}: examples", record))
    columns = list(dict.fromkeys(name for one in listed for name in one.numbers))
    names = {trace.id for trace in kept}
    text = offline_page(
        "outcome.html.jinja",
        (),
        ("theme.css", "sheet.css"),
        title or outcome.task,
        {},
        record,
        tables=list(map(shown_table, outcome.tables)),
        charts=[
            {"title": chart.title, "svg": inline_svg(figure(chart), f"chart-{number}", chart.title), "files": ()}
            for number, chart in enumerate(outcome.charts if installed() else ())
        ],
        examples=[
            {
                "title": one.title,
                "link": f"{beside.name}#row={quote(one.id)}" if one.id in names else "",
                "numbers": [said(one.numbers.get(name)).replace("-", "−") for name in columns],
            }
            for one in listed
        ],
        columns=columns,
        left=len(outcome.examples) - len(listed),
        cost=[(name.replace("_", " "), shown(value)) for name, value in outcome.cost.items()],
    )
    write_text(path, text)


def _kept(examples: Sequence[ListedExample], traces: Iterable[TokenTrace]) -> list[TokenTrace]:
    """Return the traces of some examples, in their order; of a pair both sides."""
    wanted = {row for one in examples for row in (one.id, one.id.rpartition("/")[0])}
    by_row: dict[str, list[TokenTrace]] = {}
    for trace in traces:
        row = trace.id.rpartition("/")[0] if trace.side else trace.id
        if row in wanted:
            by_row.setdefault(row, []).append(trace)
    found: dict[str, TokenTrace] = {}
    for one in examples:
        for row in (one.id, one.id.rpartition("/")[0]):
            for trace in by_row.get(row, []):
                found[trace.id] = trace
    return list(found.values())


def _marked(trace: TokenTrace, wrong: Sequence[tuple[int, int]]) -> TokenTrace:
    """Return the trace with stretches that are labelled as wrong among its spans: the page outlines them."""
    if not wrong:
        return trace
    whole = [_whole(trace, start, end) for start, end in sorted(wrong)]
    cut = Cut("given", lambda *_: [(stretch, False) for stretch in whole], False)
    spans = spans_of(cut, trace.tokens, Response(trace.response))
    return replace(trace, spans=together([trace.spans, spans]))


def _whole(trace: TokenTrace, start: int, end: int) -> tuple[int, int]:
    """Return a stretch grown to whole tokens: pieces often begin with the blank before a word."""
    held = [one for one in trace.tokens if trace.response[max(start, one.start) : min(end, one.end)].strip()]
    return (held[0].start, held[-1].end) if held else (start, end)
