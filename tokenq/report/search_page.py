"""Search results as one HTML page: what was found for each prompt, and the tree of what was looked at on the way.

The page is closed as the page of traces is: it opens from disk, loads and sends nothing, and texts of models and data
travel as JSON that no browser runs. Which candidate is the best, where others depart from it, and how a tree is folded
into lines (chains of tokens behind which nothing else was looked at until their end) is decided in `search_view`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenq.data.chat.messages import text_of_turn
from tokenq.files import write_text
from tokenq.records.examples import Message, Text
from tokenq.records.results import Candidate, SearchResult, SearchTree
from tokenq.records.schema import SCHEMA
from tokenq.report.channels import CHANNELS, Channel
from tokenq.report.offline import offline_page
from tokenq.report.view import FORMAT, short

SCRIPTS = ("data.js", "search.js", "search_candidates.js", "search_tree.js")
"""The parts of the page's script, in the order in which they are put together; data.js is that of the other page."""

STYLES = ("theme.css", "tokens.css", "page.css", "search.css")
"""The parts of its style; all but the last are those of the other page."""


LOG_RATIO = Channel(
    "log_ratio",
    "log π − log π_ref",
    "the implicit reward divided by β, in nats",
    "log_ratio",
    1,
    "Blue: the policy makes this token likelier than the reference does; orange: less likely. What training changed, "
    "not what is right: the reward of a token includes what may still follow.",
)
"""Implicit reward without β, which a search result does not hold."""


def search_page(
    results: Sequence[SearchResult], *, title: str = "tokenq search", record: Mapping[str, Any] = {}
) -> str:
    """Return a self-contained HTML page that shows the results.

    Args:
        results: what to show, in this order.
        title: of the page.
        record: where they come from, as provenance has it.
    """
    data = search_view(results)
    islands = {"index": {name: value for name, value in data.items() if name != "results"}}
    islands |= {f"result-{number}": result for number, result in enumerate(data["results"])}
    return offline_page("search.html.jinja", SCRIPTS, STYLES, title, islands, record)


def write_search_page(
    path: Path, results: Sequence[SearchResult], *, title: str, record: Mapping[str, Any] = {}
) -> None:
    """Write the page of `results` to `path`, aside and renamed.

    Args:
        path: where to.
        results: what to show, in this order.
        title: of the page.
        record: where they come from, as provenance has it.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    write_text(path, search_page(results, title=title, record=record))


def search_view(results: Sequence[SearchResult]) -> dict[str, Any]:
    """Return everything that a page of search results shows, as JSON has it.

    Args:
        results: what to show, in the order of the list.

    Returns:
        `rows` (the list: name, first words, method, objective, best score, cost, badges), `results` (one dict each:
        prompt, candidates, tree) and `channels` (what can be coloured, log ratio first where a reference was run).
    """
    names: dict[str, None] = {}
    for result in results:
        names[_unused(result.id, names)] = None
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "channels": [asdict(channel) for channel in _channels(results)],
        "rows": [_row(name, result) for name, result in zip(names, results, strict=True)],
        "results": [_result(result) for result in results],
    }


def _unused(name: str, used: dict[str, None]) -> str:
    """Return a name for a row, by which an address finds it, also where a prompt was searched more than once."""
    count, free = 1, name
    while free in used:
        count += 1
        free = f"{name} ({count})"
    return free


def _channels(results: Sequence[SearchResult]) -> list[Channel]:
    own = CHANNELS["policy_surprisal"]
    compared = any(one.ref_logps is not None for result in results for one in result.candidates)
    return [LOG_RATIO, own, CHANNELS["reference_surprisal"]] if compared else [own]


def _row(name: str, result: SearchResult) -> dict[str, Any]:
    best, cost = _best(result.candidates), result.cost
    badges = [f"stopped: {result.stopped}"] if result.stopped else []
    if best is None:
        badges.append("no candidates")
    elif not result.candidates[best].terminal:
        badges.append("best is cut")
    return {
        "name": name,
        "preview": " ".join(_first_words(result.prompt).split())[:80],
        "method": result.method,
        "objective": result.objective,
        "score": None if best is None else short(result.candidates[best].score),
        "tokens": cost.policy_tokens + cost.reference_tokens + cost.value_tokens,
        "badges": badges,
    }


def _first_words(prompt: Text) -> str:
    """Return the beginning of a prompt; of a conversation, that of what the user said last."""
    if isinstance(prompt, str):
        return prompt[:200]
    said = [turn.content for turn in prompt if turn.role == "user"] or [text_of_turn(turn) for turn in prompt] or [""]
    return said[-1][:200]


def _best(candidates: Sequence[Candidate]) -> int | None:
    """Return the place of the highest score, the first of equals; a score that is no number is never the highest."""
    scores = [-math.inf if math.isnan(one.score) else one.score for one in candidates]
    return scores.index(max(scores)) if scores else None


def _turn(turn: Message) -> dict[str, str]:
    return {"role": turn.role, "content": text_of_turn(turn)}


def _result(result: SearchResult) -> dict[str, Any]:
    tree = None if result.tree is None or not result.tree.parents else result.tree
    children = [] if tree is None else _children(tree)
    chains, above = ([], []) if tree is None else _fold(tree, children)
    line = {node: number for number, chain in enumerate(chains) for node in chain}
    best = _best(result.candidates)
    first = None if best is None else result.candidates[best]
    candidates = []
    for one in result.candidates:
        path = [] if tree is None else _path(tree, children, one.token_ids)
        candidates.append(_candidate(one, first or one) | {"line": line[path[-1]] if path else None})
    scores = [one.score for one in result.candidates]
    return {
        "prompt": result.prompt if isinstance(result.prompt, str) else [*map(_turn, result.prompt)],
        "cost": {name: short(number) for name, number in asdict(result.cost).items()},
        "stopped": result.stopped,
        "best": best,
        "best_first": scores == sorted(scores, reverse=True),
        "candidates": candidates,
        "tree": None if tree is None else _lines(tree, chains, above),
    }


def _candidate(one: Candidate, best: Candidate) -> dict[str, Any]:
    """Return a candidate by column; what it shares with the best is counted in tokens and in characters."""
    ref = one.ref_logps
    shared = _shared(one.token_ids, best.token_ids)
    return {
        "text": one.text,
        "score": short(one.score),
        "terminal": one.terminal,
        "answer": one.answer,
        "length": len(one.token_ids),
        "total": short(math.fsum(one.logps)),
        "ref_total": None if ref is None else short(math.fsum(ref)),
        "shared": shared,
        "head": one.text[: _shared(one.text, best.text)] if shared else "",
        "texts": list(one.pieces),
        "running": bool(one.pieces),
        "id": list(one.token_ids),
        "logp": [short(logp) for logp in one.logps],
        "ref_logp": None if ref is None else [short(logp) for logp in ref],
        "log_ratio": None if ref is None else [short(own - other) for own, other in zip(one.logps, ref, strict=True)],
    }


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Return how many items two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _children(tree: SearchTree) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in tree.parents]
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            children[parent].append(node)
    return children


def _path(tree: SearchTree, children: Sequence[Sequence[int]], token_ids: Sequence[int]) -> list[int]:
    """Return the nodes of a response, as far as the tree holds it. Equal branches are followed side by side."""
    layer = [0]
    for token in token_ids:
        grown = [child for node in layer for child in children[node] if tree.token_ids[child] == token]
        if not grown:
            break
        layer = grown
    path, node = [], layer[0]
    while node > 0:
        path.append(node)
        node = tree.parents[node]
    return path[::-1]


def _fold(tree: SearchTree, children: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
    """Return the lines of a tree, as nodes, and the line above each (−1 at the top), which always comes before it."""
    chains: list[list[int]] = []
    above: list[int] = []
    waiting = [(child, -1) for child in children[0]]
    for node, parent in waiting:
        chain = [node]
        while not tree.ends[chain[-1]] and len(children[chain[-1]]) == 1:
            chain += children[chain[-1]]
        waiting += [(child, len(chains)) for child in children[chain[-1]]]
        chains.append(chain)
        above.append(parent)
    return chains, above


def _lines(tree: SearchTree, chains: Sequence[Sequence[int]], above: Sequence[int]) -> dict[str, Any]:
    """Return a tree by column, one entry per line; visits are those at its beginning, score and value those at its end.

    Returns:
        `above` (the line above), `id`, `text` and `logp` (a list each: its tokens), `sum` (log π of the line behind
        what is above it), `total` (log π of the response so far), `score`, `ends`, `below` (lines below), `visits` and
        `value` (empty where the search has none); and `tokens`, the number of tokens looked at.
    """
    totals = [0.0] * len(tree.parents)
    for node, parent in enumerate(tree.parents[1:], start=1):
        totals[node] = totals[parent] + tree.logps[node]
    below = [0] * len(chains)
    for number in range(len(chains) - 1, -1, -1):
        if above[number] >= 0:
            below[above[number]] += 1 + below[number]
    return {
        "tokens": len(tree.parents) - 1,
        "above": list(above),
        "id": [[tree.token_ids[node] for node in chain] for chain in chains],
        "text": [[tree.texts[node] for node in chain] for chain in chains],
        "logp": [[short(tree.logps[node]) for node in chain] for chain in chains],
        "sum": [short(math.fsum(tree.logps[node] for node in chain)) for chain in chains],
        "total": [short(totals[chain[-1]]) for chain in chains],
        "score": [short(tree.scores[chain[-1]]) for chain in chains],
        "ends": [int(tree.ends[chain[-1]]) for chain in chains],
        "below": below,
        "visits": [tree.visits[chain[0]] for chain in chains] if tree.visits else [],
        "value": [short(tree.values[chain[-1]]) for chain in chains] if tree.values else [],
    }
