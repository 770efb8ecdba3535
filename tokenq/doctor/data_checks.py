"""Checks of the data of a run: cut, lost, merged, repeated, contradictory, or told apart by length alone.

`data_facts` counts in token space; the checks judge these counts, or the account that the run recorded, where the rows
are no longer at hand. Rows themselves are read and tokenised by the caller.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.data.digest import group_key
from tokenq.data.encoding import common_tokens
from tokenq.data.truncation import TOO_LONG
from tokenq.doctor.finding import Evidence, Finding, Severity, percent
from tokenq.records.examples import TokenGroup
from tokenq.runs.facts import DataFacts
from tokenq.runs.record import RunRecord
from tokenq.score.health import row_warnings
from tokenq.stats.bootstrap import proportion_interval

LOOP = 0.5
"""Share of repeated four-grams from which a response goes in circles; people's texts stay below 0.1 (the measure is
seq-rep-4 of arXiv 1908.04319)."""

LOOP_TOKENS = 24
"""Shortest response that is judged for loops."""

NEAR_EQUAL = 0.9
"""Share of a pair's tokens that both responses share at the beginning and the end, from which it is an edit: such pairs
push the chosen response down with the rejected one (arXiv 2402.13228)."""

REMARKED = 256
"""Rows that are looked at for their template: what is wrong with one is wrong with all."""

FEW_CUT, MANY_CUT = 0.05, 0.5
"""Share of responses without their end from which a model learns to ramble, and from which it hardly learns to stop."""

LOST = 0.1
"""Share of rows that were left out and should not have been, from which the rest is another data set."""

MERGED = 0.1
"""Share of prompts whose last token in training is not the one that the prompt alone ends with."""

LENGTH_TELLS = 0.7
"""Share of pairs that length alone orders right, beyond chance of counting: good reward models reach this on human
preferences, of which length explains a few points."""

EQUAL = "chosen equals rejected"
"""The reason for which a pair that says nothing is left out."""

BY_DESIGN = frozenset({"tied ratings", "fewer than two rated responses", "undesirable response", EQUAL})
"""Reasons to leave a row out that are no fault of it, or have a finding of their own."""


def repetition(ids: NDArray[np.int32]) -> float:
    """Return seq-rep-4 of a response: the share of its four-grams that stood in it before."""
    if len(ids) < 4:
        return 0.0
    grams = np.lib.stride_tricks.sliding_window_view(ids, 4)
    return 1.0 - len(np.unique(grams, axis=0)) / len(grams)


def loops(ids: NDArray[np.int32]) -> bool:
    """Return whether a response says the same again and again."""
    return len(ids) >= LOOP_TOKENS and repetition(ids) > LOOP


def data_facts(
    groups: Sequence[TokenGroup],
    summary: dict[str, Any],
    sha256: str,
    tokenizer: Any,
    trained_on: Sequence[TokenGroup] = (),
) -> DataFacts:
    """Return the counts of a data set.

    Args:
        groups: its groups.
        summary: its account, as plain data.
        sha256: its digest.
        tokenizer: the one that made the groups.
        trained_on: for held-out data, the groups of the training data.
    """
    first: dict[str, str] = {}
    orders: set[str] = set()
    duplicates = reversed_pairs = near_equal = longer = unequal = long_responses = repeated = 0
    for group in groups:
        key = group_key(group)
        # A row that a weight or a format gives more than once is no duplicate of itself.
        duplicates += key in first and first[key] != group.where
        first.setdefault(key, group.where)
        for response in group.responses:
            long_responses += len(response.ids) >= LOOP_TOKENS
            repeated += loops(response.ids)
        if group.is_pair:
            chosen, rejected = (response.ids for response in group.responses[:2])
            longer += len(chosen) > len(rejected)
            unequal += len(chosen) != len(rejected)
            near_equal += _shared(chosen, rejected) >= NEAR_EQUAL
            reversed_pairs += _pair_key(group, turned=True) in orders
            orders.add(_pair_key(group))
    asked = [group for group in groups[:REMARKED] if all(response.terminal for response in group.responses)]
    remarks = Counter(remark for group in asked for remark in row_warnings(group, tokenizer))
    rows = {group_key(group) for group in trained_on}
    prompts = {group.prompt_ids.tobytes() for group in trained_on}
    return DataFacts(
        summary=summary,
        sha256=sha256,
        duplicates=duplicates,
        reversed_pairs=reversed_pairs,
        near_equal=near_equal,
        longer=longer,
        unequal=unequal,
        long_responses=long_responses,
        loops=repeated,
        remarks=dict(remarks),
        remarked=len(asked),
        seen_rows=sum(group_key(group) in rows for group in groups) if rows else 0,
        seen_prompts=sum(group.prompt_ids.tobytes() in prompts for group in groups) if prompts else 0,
    )


def _pair_key(group: TokenGroup, turned: bool = False) -> str:
    """Return the key of a pair, or that with its labels exchanged; what else stands beside the pair does not count."""
    chosen, rejected = group.responses[:2]
    both = (rejected, chosen) if turned else (chosen, rejected)
    return group_key(TokenGroup(group.prompt_ids, both, True, group.where))


def _shared(first: NDArray[np.int32], second: NDArray[np.int32]) -> float:
    """Return the share of the longer response that both have in common at the beginning and at the end."""
    head = common_tokens(first, second)
    tail = common_tokens(first[head:][::-1], second[head:][::-1])
    return (head + tail) / max(len(first), len(second))


def cut(record: RunRecord) -> Finding | None:
    """Return a finding where responses lost their end."""
    summary = record.summary
    responses, count = int(summary.get("responses", 0)), int(summary.get("truncated_responses", 0))
    if not responses or not count:
        return None
    share = count / responses
    severity: Severity = "error" if share > MANY_CUT else "warning" if share > FEW_CUT else "note"
    return Finding(
        "responses-cut",
        severity,
        f"{percent(count, responses)} of the responses were cut and have no EOS: from them the policy learns not to "
        "stop, and rewards lack the credit of the end.",
        (
            Evidence("responses cut", count),
            Evidence("responses", responses),
            Evidence("share of responses with EOS", 1 - share),
            Evidence("max_length", float(record.config.get("max_length") or 0)),
        ),
        "Raise --max-length, or leave long rows out (--truncation drop).",
    )


def lost(record: RunRecord) -> Finding | None:
    """Return a finding where rows were left out for a reason that should be looked at."""
    dropped, rows = dict(record.summary.get("dropped") or {}), int(record.summary.get("rows", 0))
    faults = {reason: count for reason, count in dropped.items() if reason not in BY_DESIGN}
    if not rows or not faults:
        return None
    count = sum(faults.values())
    too_long = sum(number for reason, number in faults.items() if reason in TOO_LONG)
    change = "Mend these rows." if too_long < count else ""
    longer = "Raise --max-length: what is left out is not any part of the data, but the long part." if too_long else ""
    return Finding(
        "rows-lost",
        "warning" if count > LOST * rows else "note",
        f"{percent(count, rows)} of the rows were left out.",
        (Evidence("rows", rows), *(Evidence(reason, number) for reason, number in faults.items())),
        f"{change} {longer}".strip(),
    )


def boundary(record: RunRecord) -> Finding | None:
    """Return a finding where tokens merge over the end of prompts, or a template writes them otherwise."""
    summary = record.summary
    groups = int(summary.get("groups", 0))
    merged, rewritten = int(summary.get("boundary_merges", 0)), int(summary.get("template_rewrites", 0))
    if not groups or not merged + rewritten:
        return None
    return Finding(
        "boundary-merges",
        "warning" if merged > MERGED * groups else "note",
        f"In {percent(merged + rewritten, groups)} of the rows the prompt's last tokens are others once a response "
        "follows. Training counts them to the response; a prompt that is written alone ends in tokens that the "
        "policy was not trained on.",
        (
            Evidence("tokens merge over the end of the prompt", merged),
            Evidence("the chat template writes the prompt otherwise", rewritten),
            Evidence("groups", groups),
        ),
        "End prompts without the blank and begin responses with it (or use a chat template whose header ends a line).",
    )


def length_alone(record: RunRecord) -> Finding | None:
    """Return a finding where the lengths of two responses say which one was chosen."""
    facts = record.data
    if facts is None or not facts.unequal:
        return None
    hits = max(facts.longer, facts.unequal - facts.longer)
    low, high = proportion_interval(hits, facts.unequal)
    if low <= LENGTH_TELLS:
        return None
    which = "longer" if facts.longer * 2 > facts.unequal else "shorter"
    return Finding(
        "length-tells",
        "warning",
        f"The chosen response is the {which} one in {percent(hits, facts.unequal)} of the pairs: a policy that learns "
        f"nothing but to write {which} responses looks accurate.",
        (
            Evidence(f"chosen is {which}", hits),
            Evidence("pairs of different lengths", facts.unequal),
            Evidence("95 % interval", f"{low:.3f} to {high:.3f}"),
        ),
        "Add pairs in which it is the other way round; judge the policy length-controlled, and by its own samples.",
    )
