"""What the app shows of traces and searches: the data of the report's pages, made for one branch or two at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tokenq.records.results import SearchResult
from tokenq.records.schema import SCHEMA
from tokenq.records.traces import Side, TokenTrace
from tokenq.report.channels import NEGATIVE, NUMBERS, POSITIVE, channels_by
from tokenq.report.search_page import search_view
from tokenq.report.view import FORMAT, page_parts
from tokenq.server.web.records import Branch

SIDES: tuple[Side, Side] = ("chosen", "rejected")

Bytes = Callable[[int], bytes]
"""(token id) → the bytes that it stands for."""


def reading_view(branches: Sequence[Branch], bytes_of: Bytes) -> dict[str, Any]:
    """Return what is shown of one branch, or of two beside each other.

    Args:
        branches: with their traces; of two, the first is compared with the second.
        bytes_of: of a token.

    Returns:
        `index` (models and vocabulary, to which traces refer by number; a vocabulary has its bytes as hexadecimal
        digits), `traces`, and `pair`: where two part and what earns their margin, None for one.
    """
    traces = [TokenTrace.from_dict(json.loads(branch.trace), branch.name) for branch in branches]
    if len(traces) > 1:
        traces = [_of_pair(trace, side) for trace, side in zip(traces, SIDES, strict=True)]
    parts = dict(page_parts(traces, ""))
    index = {name: parts["index"][name] for name in ("models", "vocabulary", "levels")}
    index["vocabulary"]["bytes"] = [bytes_of(number).hex() for number in index["vocabulary"]["id"]]
    shown = [parts[f"trace-{number}"] for number in range(len(traces))]
    for trace, branch in zip(shown, branches, strict=True):
        trace |= {"id": branch.name, "side": None}
    return {"index": index, "traces": shown, "pair": parts.get("pair-0")}


def _of_pair(trace: TokenTrace, side: Side) -> TokenTrace:
    """Return a trace as one side of a pair; what pairs have in common is their row."""
    return replace(trace, id=f"1/{side}", side=side)


def blank_index(
    reward_models: Sequence[Mapping[str, Any]] = (), levels: Sequence[str] = ("word", "sentence")
) -> dict[str, Any]:
    """Return what the page has before anything was read: channels, levels and palette, and no rows.

    Args:
        reward_models: identity of the reward model that reads beside the policy, if there is one.
        levels: of stretches.
    """
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "numbers": list(NUMBERS),
        "channels": [asdict(channel) for channel in channels_by(reward_models, read=True)],
        "palette": {"positive": list(POSITIVE), "negative": list(NEGATIVE)},
        "levels": ["token", *levels],
        "rows": [],
        "models": [],
        "vocabulary": {"id": [], "text": [], "bytes": []},
    }


def searching_view(result: SearchResult) -> dict[str, Any]:
    """Return what is shown of a search, running or done: its candidates, its cost and its tree in lines."""
    view = search_view([result])
    found: dict[str, Any] = view["results"][0]
    return found | {"method": result.method, "objective": result.objective}
