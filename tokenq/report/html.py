"""Traces as HTML: a page that opens from disk, and a static piece for notebooks."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenq.files import write_lines
from tokenq.records.trace_records import TraceToken
from tokenq.records.traces import TokenTrace
from tokenq.report.channels import NEGATIVE, POSITIVE, Channel, find_channel, is_read, shares
from tokenq.report.offline import offline_parts, packed_island, templates, writable
from tokenq.report.view import page_parts

PARTS = ("data.js", "paint.js", "text.js", "curve.js", "inspector.js", "lists.js", "controls.js", "export.js")
"""The parts of a page on which responses are read, in the order in which they are put together."""

SCRIPTS = (*PARTS, "page.js")
"""The parts of this page's script."""

STYLES = ("theme.css", "tokens.css", "page.css")
"""The parts of its style."""

_DEEPEST = 0.7
"""Opacity of the deepest colour: black and white text stay readable on it."""


_UNSEEN = re.compile(
    "([\n\t\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff])"
)
"""Characters without a look of their own, as data.js has them."""

_SIGNS = {"\n": "↵", "\t": "⇥"}


@dataclass(frozen=True)
class ShownToken:
    """A token as it is shown without script.

    Attributes:
        name: its piece; EOS, or its number where it has no piece.
        parts: its piece as (mark, text): marks stand for what has no look of its own.
        share: how deep it is coloured, −1 … 1.
        said: its numbers in words.
        written: whether the policy wrote it.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    share: float
    said: str
    written: bool


def page(traces: Iterable[TokenTrace], title: str = "tokenq", record: Mapping[str, Any] = {}) -> str:
    """Return a self-contained HTML page that shows the traces.

    Args:
        traces: what to show; "N/chosen" and "N/rejected" side by side.
        title: of the page.
        record: where the traces come from, as provenance has it.
    """
    return "".join(_pieces(traces, title, record))


def write_page(path: Path, traces: Iterable[TokenTrace], title: str = "tokenq", record: Mapping[str, Any] = {}) -> None:
    """Write the page of `traces` to `path`, aside and renamed.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    write_lines(path, (piece.encode() for piece in _pieces(traces, title, record)))


def _pieces(traces: Iterable[TokenTrace], title: str, record: Mapping[str, Any]) -> Iterator[str]:
    """Return the page piece by piece; each trace is packed by itself, and none is kept."""
    packed: dict[str, str] = {}
    index: dict[str, Any] = {}
    for name, part in page_parts(traces, title):
        if name == "index":
            index = part
        else:
            packed[name] = packed_island(part)
    return offline_parts("page.html.jinja", SCRIPTS, STYLES, title, {"index": index}, record, packed=packed)


def fragment(trace: TokenTrace, channel: str | None = None) -> str:
    """Return the coloured text of one trace as HTML without script or style sheet, as notebooks show it.

    Args:
        trace: what to show.
        channel: what the colour stands for; see `tokenq.report.channels.channels_of`. Default: the implicit reward, or
            the reward where a reward model alone has read the response.

    Raises:
        UserError: an unknown channel.
    """
    shown = find_channel(channel, trace)
    text = (
        templates()
        .get_template("fragment.html.jinja")
        .render(
            trace=trace,
            facts=facts(trace),
            read=is_read(trace),
            channel=shown,
            pieces=[(one, _ground(one.share)) for one in shown_tokens(trace, shown)],
            worst=[(_quoted(_name(token, trace)), token, _favoured(token)) for token in standing_out(trace, shown)],
        )
    )
    return writable(text)


def facts(trace: TokenTrace) -> list[tuple[str, str]]:
    """Return the numbers of a whole response, as (name, number in words)."""
    totals = trace.totals
    names = (trace.reward_model or {}).get("outputs", ())
    numbers = {"reward": totals.reward, **dict(zip(names, totals.outputs, strict=False))}
    found = [(name, f"{number:+.3f}") for name, number in numbers.items() if number is not None]
    if is_read(trace):
        found = [
            ("implicit reward", f"{totals.given('implicit_reward'):+.3f}"),
            ("log π", f"{totals.given('logp'):.2f}"),
            ("log π_ref", f"{totals.given('ref_logp'):.2f}"),
            *found,
        ]
    return found


def shown_tokens(trace: TokenTrace, channel: Channel, scale: float | None = None) -> list[ShownToken]:
    """Return the tokens of a response as they are shown without script.

    Args:
        trace: whose tokens.
        channel: what the colour stands for.
        scale: the value of the deepest colour; None: the largest of this trace.
    """
    return [
        ShownToken(name, parts_of(token.text, name), share, _tooltip(token, channel), token.written)
        for token, share in zip(trace.tokens, shares(trace, channel, scale), strict=True)
        for name in (_name(token, trace),)
    ]


def standing_out(trace: TokenTrace, channel: Channel, most: int = 5) -> list[TraceToken]:
    """Return the most negative (or most surprising) tokens of those that the policy wrote, from the worst on."""
    written = [token for token in trace.tokens if token.written]
    return sorted(written, key=lambda token: channel.factor * (channel.value(token) or 0.0))[:most]


def _ground(share: float) -> str:
    red, green, blue = POSITIVE if share > 0 else NEGATIVE
    return f"background:rgba({red},{green},{blue},{_DEEPEST * abs(share):.3f})" if abs(share) >= 0.005 else ""


def parts_of(text: str, name: str) -> tuple[tuple[str, str], ...]:
    """Return the piece of a token as (mark, text): marks stand for what has no look of its own.

    Args:
        text: the piece.
        name: what a token without one is called.
    """
    return tuple((_mark(part), part) for part in _UNSEEN.split(text) if part) if text else ((name, ""),)


def _mark(part: str) -> str:
    return _SIGNS.get(part, f"U+{ord(part):04X}") if _UNSEEN.fullmatch(part) else ""


def _name(token: TraceToken, trace: TokenTrace) -> str:
    """Return the label of a token: its piece, EOS, or its number if it has no piece."""
    if token.text:
        return token.text
    return "EOS" if trace.terminal and token == trace.tokens[-1] else f"#{token.id}"


def _tooltip(token: TraceToken, channel: Channel) -> str:
    if not token.written:
        return "not written by the policy"
    numbers = {
        channel.label: channel.value(token),
        "implicit reward": token.implicit_reward,
        "log π": token.logp,
        "log π_ref": token.ref_logp,
        "prefix value": token.prefix_value,
        "reward model": token.reward,
    }
    return ", ".join(f"{name} {number:+.4f}" for name, number in numbers.items() if number is not None)


def _favoured(token: TraceToken) -> str:
    return _quoted(token.favoured[0].text) if token.favoured else ""


def _quoted(text: str) -> str:
    """Return text in quotes, with blanks and line ends that can be seen."""
    return json.dumps(text, ensure_ascii=False)
