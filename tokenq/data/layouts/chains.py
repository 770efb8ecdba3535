"""Chains of density: several summaries of one text, each with more in it than the one before (arXiv 2309.04269).

A row is what `tokenq densify` writes, or one of griffin/chain_of_density: a text, a list of summaries, and perhaps
which step each annotator liked best. A summary is rated by its step, so that whatever makes pairs of ratings does.
"""

from collections import Counter
from collections.abc import Sequence

from tokenq.data.layouts import cells
from tokenq.data.layouts.cells import Values
from tokenq.data.layouts.pairs import summary_prompt
from tokenq.data.layouts.parsed_row import ParsedRow, reply
from tokenq.data.turns import BadRow
from tokenq.records.examples import Response

SUMMARIES = ("summaries", "prediction")
"""Columns of the summaries of a chain, the first step first."""

VOTES = ("votes", "annotations")
"""Columns of the steps that annotators chose, a number from 1 for each."""

REPEATED, BLANK = "a summary that repeats the one before", "a summary without text"
"""Why a summary of a chain is left out."""

NO_CHAIN = "an article without a chain"
"""Why a row is: its writer gave none, and `problem` says why."""


def is_chain(values: Values) -> bool:
    """Return whether the summaries of a row are a list of texts, or its JSON."""
    found = cells.first(values, *SUMMARIES)
    return isinstance(found, Sequence) and not (isinstance(found, str) and not found.lstrip().startswith("["))


def read_chain(values: Values) -> ParsedRow:
    """Read a chain; a summary that says what the one before said, or nothing, is left out and counted."""
    name = next(name for name in SUMMARIES if name in values)
    found = cells.items(values, name)
    if not found and values.get("problem"):
        return ParsedRow("", (), undecided=NO_CHAIN)
    if not found or not all(isinstance(one, str) for one in found):
        raise BadRow("a column without text", f"column {name!r} is no list of texts")
    votes = _votes(values, len(found))
    left_out, kept = list[str](), list[tuple[int, str]]()
    for step, text in enumerate(found, 1):
        if not text.strip():
            left_out.append(BLANK)
        elif kept and _same(text, kept[-1][1]):
            left_out.append(REPEATED)
        else:
            kept.append((step, text))
    if not kept:
        raise BadRow("empty response", "no summary of the chain has a text")
    prompt = cells.content(values, "prompt") if "prompt" in values else None
    if prompt is None:  # asked for as summaries of articles are asked for elsewhere
        prompt = summary_prompt({"article": cells.text(values, "article")})
        kept = [(step, f" {text.strip()}") for step, text in kept]
    responses = tuple(
        Response(text if isinstance(prompt, str) else reply(text), score=float(step), ratings=votes.get(step, {}))
        for step, text in kept
    )
    return ParsedRow(prompt, responses, left_out=tuple(left_out))


def _same(first: str, second: str) -> bool:
    return first.split() == second.split()


def _votes(values: Values, steps: int) -> dict[int, dict[str, float]]:
    """Return the votes of every step, {} where nobody voted."""
    name = next((name for name in VOTES if not cells.is_missing(values.get(name))), None)
    if name is None:
        return {}
    chosen = [cells.whole(one, "vote") for one in cells.items(values, name)]
    odd = next((one for one in chosen if one is None or not 1 <= one <= steps), 1)
    if not chosen or odd is None:
        raise BadRow("no vote", f"column {name!r} has an empty place")
    if not 1 <= odd <= steps:
        raise BadRow("a vote for no step", f"column {name!r} votes for step {odd}, and there are steps 1 to {steps}")
    counted = Counter(chosen)
    return {step: {"votes": float(counted[step])} for step in range(1, steps + 1)}
