"""An account of what happened to the data: everything dropped, cut or mended, as a record and as a line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.data.chat.template import DATE
from tokenq.records.examples import TokenGroup

MENDED = (
    *("truncated_prompts", "truncated_responses", "boundary_merges", "template_rewrites", "rewritten_turns"),
    *("system_turns_cut", "user_turns_cut", "assistant_turns_cut", "tool_turns_cut"),
    *("bos_added", "bos_removed", "eos_added", "eos_cut", "without_prompt", "dated"),
)
"""The attributes of a summary that count what was mended in groups."""


@dataclass(frozen=True)
class TokenCounts:
    """Lengths in tokens of one part of the data.

    Attributes:
        total: the sum.
        p50: the smallest length that at least 50 % of the parts do not exceed; likewise `p90` and `p99`.
        p90: see `p50`.
        p99: see `p50`.
        max: the longest.
    """

    total: int
    p50: int
    p90: int
    p99: int
    max: int

    @classmethod
    def of(cls, lengths: Sequence[int] | NDArray[np.int32]) -> "TokenCounts":
        """Return the counts of the given lengths, at least one."""
        p50, p90, p99 = (int(value) for value in np.percentile(lengths, [50, 90, 99], method="inverted_cdf"))
        return cls(int(np.sum(lengths)), p50, p90, p99, int(np.max(lengths)))


@dataclass(frozen=True)
class DataSummary:
    """An account of the rows of a data set.

    Attributes:
        rows: rows read.
        groups: prompts kept, each with its responses.
        pairs: groups that are a (chosen, rejected) pair.
        responses: responses kept.
        dropped: what was left out, by reason.
        truncated_prompts: prompts cut.
        truncated_responses: responses cut, and so not terminal.
        system_turns_cut: turns of the system that lost tokens where prompts or responses were cut.
        user_turns_cut: likewise; a prompt loses its first turns, a response its last.
        assistant_turns_cut: likewise.
        tool_turns_cut: likewise.
        boundary_merges: groups in which tokens merge over the end of the prompt and went to the responses.
        template_rewrites: groups whose chat template writes the prompt differently once a response follows, such as a
            header that opens thoughts which the response does not have.
        rewritten_turns: responses of which some turns of the assistant are not learnt, as the template writes them
            otherwise once others follow.
        bos_added: conversations to which BOS was added, as the tokenizer uses one and the template has none.
        bos_removed: groups with a doubled BOS, now one.
        eos_added: responses to which EOS was added.
        eos_cut: responses of which a doubled EOS, or blanks behind EOS, were left out.
        without_prompt: groups whose prompt is empty: BOS alone stands before the response.
        dated: groups whose chat template has written a date, which is the same every day.
        tokens: lengths by part: prompt, and chosen and rejected, or response.
    """

    rows: int
    groups: int
    pairs: int
    responses: int
    dropped: dict[str, int]
    truncated_prompts: int
    truncated_responses: int
    system_turns_cut: int
    user_turns_cut: int
    assistant_turns_cut: int
    tool_turns_cut: int
    boundary_merges: int
    template_rewrites: int
    rewritten_turns: int
    bos_added: int
    bos_removed: int
    eos_added: int
    eos_cut: int
    without_prompt: int
    dated: int
    tokens: dict[str, TokenCounts]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return the account as one line."""
        held = f"{self.pairs:,} pairs" if self.pairs == self.groups else f"{self.responses:,} responses"
        if self.pairs not in (0, self.groups):
            held += f" ({self.pairs:,} pairs)"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        mended = {
            "prompts cut": self.truncated_prompts,
            "responses cut": self.truncated_responses,
            "boundary merges": self.boundary_merges,
            "turns of the system cut": self.system_turns_cut,
            "turns of the user cut": self.user_turns_cut,
            "turns of the assistant cut": self.assistant_turns_cut,
            "results of tools cut": self.tool_turns_cut,
            "template rewrites": self.template_rewrites,
            "responses without earlier turns that the template rewrites": self.rewritten_turns,
            "BOS added": self.bos_added,
            "BOS removed": self.bos_removed,
            "EOS added": self.eos_added,
            "responses without what followed EOS (a line break of chat templates)": self.eos_cut,
            "without a prompt": self.without_prompt,
            f"with a date (always {DATE:%d %b %Y})": self.dated,
        }
        # Cuts and merges are said even when there are none: that is what one wants to know.
        said = [f"{count:,} {name}" for index, (name, count) in enumerate(mended.items()) if count or index < 3]
        lengths = ", ".join(
            f"{part} {count.p50:,}/{count.p90:,}/{count.p99:,}/{count.max:,}" for part, count in self.tokens.items()
        )
        total = sum(count.total for count in self.tokens.values())
        return (
            f"{self.rows:,} rows: {held}; dropped {sum(self.dropped.values()):,}{f' ({reasons})' if reasons else ''}; "
            f"{', '.join(said)}; {total:,} tokens (50 %/90 %/99 %/longest: {lengths})"
        )


def summarise(groups: Sequence[TokenGroup], rows: int, dropped: Mapping[str, int], mended: Counter[str]) -> DataSummary:
    """Return the account of token groups.

    Args:
        groups: what was kept, at least one group.
        rows: rows read.
        dropped: what was left out, by reason.
        mended: counts under the names of the attributes of `DataSummary`.
    """
    lengths: dict[str, list[int]] = {"prompt": [len(group.prompt_ids) for group in groups]}
    for group in groups:
        names = ("chosen", "rejected", "calibration") if group.is_pair else ("response",) * len(group.responses)
        for name, response in zip(names, group.responses, strict=False):
            lengths.setdefault(name, []).append(len(response.ids))
    pairs, responses = sum(group.is_pair for group in groups), sum(len(group.responses) for group in groups)
    return account(rows, (len(groups), pairs, responses), dropped, mended, lengths)


def account(
    rows: int,
    kept: tuple[int, int, int],
    dropped: Mapping[str, int],
    mended: Mapping[str, int],
    lengths: Mapping[str, Sequence[int] | NDArray[np.int32]],
) -> DataSummary:
    """Return an account of what was counted.

    Args:
        rows: rows read.
        kept: groups, pairs and responses.
        dropped: what was left out, by reason.
        mended: counts under the names of `MENDED`.
        lengths: of prompts, and of responses by the part that they play.
    """
    return DataSummary(
        rows,
        *kept,
        dropped={reason: count for reason, count in Counter(dropped).most_common() if count},
        **{name: mended.get(name, 0) for name in MENDED},
        tokens={part: TokenCounts.of(counts) for part, counts in lengths.items()},
    )
