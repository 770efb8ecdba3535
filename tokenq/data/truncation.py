"""Truncation: one function for each policy on token groups over the limits, in one table.

A response is never cut unless the policy says so, and a cut response is marked as not terminal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup

LONG_PROMPT = "prompt longer than the limit"
LONG_ROW = "prompt and response longer than the limit"
NO_ROOM = "response so long that no prompt fits the limit"
TOO_LONG = (LONG_PROMPT, LONG_ROW, NO_ROOM)


@dataclass(frozen=True)
class LengthLimits:
    """Limits of length in tokens.

    Attributes:
        max_length: of the prompt with any one of its responses, everything counted; None for no limit.
        max_prompt_length: of the prompt; None for no limit of its own.
        kept: leading tokens of a prompt (such as BOS) that stay when it is cut from the left.
    """

    max_length: int | None
    max_prompt_length: int | None
    kept: int

    @property
    def row(self) -> int:
        """The limit of a prompt with a response."""
        return 2**62 if self.max_length is None else self.max_length

    @property
    def prompt(self) -> int:
        """The limit of a prompt that leaves at least one token to its response."""
        return min(self.row - 1, 2**62 if self.max_prompt_length is None else self.max_prompt_length)


def _longest(group: TokenGroup) -> int:
    return max(len(response.ids) for response in group.responses)


def drop(group: TokenGroup, limits: LengthLimits) -> TokenGroup | str:
    """Return the group if it is within the limits, else the reason to drop it."""
    if len(group.prompt_ids) > limits.prompt:
        return LONG_PROMPT
    return LONG_ROW if len(group.prompt_ids) + _longest(group) > limits.row else group


def prompt_left(group: TokenGroup, limits: LengthLimits) -> TokenGroup | str:
    """Return the group with its prompt cut from the left until the longest response fits whole."""
    return _cut_prompt(group, min(limits.prompt, limits.row - _longest(group)), limits.kept)


def response_right(group: TokenGroup, limits: LengthLimits) -> TokenGroup | str:
    """Return the group with its responses cut from the right; a prompt over its limit is a reason to leave it out."""
    room = limits.row - len(group.prompt_ids)
    if len(group.prompt_ids) > limits.prompt:
        return LONG_PROMPT
    return replace(group, responses=tuple(response.cut(room) for response in group.responses))


def both(group: TokenGroup, limits: LengthLimits) -> TokenGroup | str:
    """Return the group with its prompt cut from the left, then its responses from the right.

    The prompt is cut to its own limit, or to half of the whole where it has none, when the group is too long.
    """
    whole = limits.row - _longest(group)
    share = limits.prompt if limits.max_prompt_length is not None else limits.row // 2
    cut = _cut_prompt(group, min(limits.prompt, max(whole, share)), limits.kept)
    return cut if isinstance(cut, str) else response_right(cut, limits)


def _cut_prompt(group: TokenGroup, room: int, kept: int) -> TokenGroup | str:
    if len(group.prompt_ids) <= room:
        return group
    if room <= kept:
        return NO_ROOM
    tail = group.prompt_ids[len(group.prompt_ids) - (room - kept) :]
    return replace(group, prompt_ids=np.concatenate([group.prompt_ids[:kept], tail]))


TRUNCATIONS: dict[str, Callable[[TokenGroup, LengthLimits], TokenGroup | str]] = {
    "both": both,
    "drop": drop,
    "error": drop,  # and the caller stops at the first reason
    "prompt_left": prompt_left,
    "response_right": response_right,
}
"""Every policy by name: a group that keeps the limits, or the reason to leave it out."""


def too_long(groups: Sequence[TokenGroup], limits: LengthLimits) -> UserError:
    """Return the error for groups over the limits, at least one."""
    first = groups[0]
    longest = max(len(response.ids) for response in first.responses)
    asked = f"max_length {limits.max_length}"
    if limits.max_prompt_length is not None:
        asked += f", max_prompt_length {limits.max_prompt_length}"
    more = f" In all {len(groups)} rows are too long." if len(groups) > 1 else ""
    return UserError(
        f"{first.where}: the prompt has {len(first.prompt_ids)} tokens and the longest response {longest}, "
        f"over the limit ({asked}).{more}",
        "Raise --max-length, or choose --truncation drop, prompt_left, response_right or both.",
    )
