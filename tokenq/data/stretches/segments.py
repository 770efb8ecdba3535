"""Segments of responses, such as the words of a prompt and the image after it: which token belongs to which.

Each may have a strength of its own in a loss. A segment begins with a token (`<image>`), or it is a turn of the
assistant that the data call by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenq.data.encoding import whole_text
from tokenq.data.turns import is_learnt
from tokenq.errors import UserError, nearest, unknown_name
from tokenq.records.examples import Message, TokenGroup, TokenResponse
from tokenq.records.lazy_groups import each

COLUMN = "segments"
"""The token column with the number of each token's segment."""


@dataclass(frozen=True)
class Segments:
    """How segments are told apart in tokens.

    Attributes:
        names: of the segments; tokens belong to the first where nothing says otherwise.
        starts: token id → number of the segment that begins with it, and goes on to the next start or the end.
    """

    names: tuple[str, ...] = ()
    starts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Sequence[str], starts: Mapping[str, str], tokenizer: Any) -> "Segments":
        """Return segments that begin with tokens of a tokenizer.

        Args:
            names: of the segments.
            starts: name → text of one token.
            tokenizer: of `transformers`.

        Raises:
            UserError: an unknown segment; a text that is not one token; two segments that begin with one token.
        """
        found: dict[int, int] = {}
        for name, text in starts.items():
            if name not in names:
                raise unknown_name("segment", name, names)
            token = _token(text, tokenizer)
            if token in found:
                both = f"{names[found[token]]} and {name}"
                raise UserError(f"Segments {both} both begin with {text!r}.", "Give each a token of its own.")
            found[token] = [*names].index(name)
        return cls(tuple(names), found)


def _token(text: str, tokenizer: Any) -> int:
    vocabulary = tokenizer.get_vocab()
    if text in vocabulary:
        return int(vocabulary[text])
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) == 1 and whole_text(tokenizer, ids).strip() == text.strip():
        return int(ids[0])
    close = nearest(text, tokenizer.get_added_vocab())
    guess = f"Did you mean {close!r}? " if close else ""
    said = f"is {len(ids)} tokens" if len(ids) > 1 else "is unknown"
    hint = f"{guess}A segment begins with one token: add it to the tokenizer, or take another."
    raise UserError(f"--segment-starts: {text!r} {said} to the tokenizer of the model.", hint)


def with_segments(groups: Sequence[TokenGroup], segments: Segments) -> Sequence[TokenGroup]:
    """Return the groups with the number of the segment of every token.

    Raises:
        UserError: a turn has a name that is no segment's, turns cannot be told apart in tokens, or two segments
            overlap: in a turn of one the other begins.
    """

    def marked(group: TokenGroup) -> TokenGroup:
        return group.map(lambda one: one.with_token_column(COLUMN, _numbers(group.where, one, segments)))

    return each(groups, marked)


def _numbers(where: str, response: TokenResponse, segments: Segments) -> NDArray[np.int64]:
    """Return [n] the number of each token's segment."""
    ids, mask = response.ids, response.mask
    turns = _named_turns(where, response, segments)
    numbers = np.zeros(len(ids), np.int64)
    own = np.flatnonzero(np.isin(ids, [*segments.starts]) & mask)
    begins = {start: number or 0 for start, number in turns}
    begins |= {int(place): segments.starts[int(ids[place])] for place in own}
    for start, number in sorted(begins.items()):
        numbers[start:] = number
    for (start, named), (end, _) in pairwise([*turns, (len(ids), None)]):
        strange = [number for number in numbers[start:end] if number != named]
        if named is not None and strange:
            both = f"{segments.names[named]} and {segments.names[int(strange[0])]}"
            raise UserError(
                f"{where}: segments {both} overlap: one begins amid a turn that is named for the other.",
                "Take the token out of the turn, or give the turn no name.",
            )
    return numbers


def _named_turns(where: str, response: TokenResponse, segments: Segments) -> list[tuple[int, int | None]]:
    """Return (first token, number of the segment or None) of every turn of the assistant, if any has a name."""
    content = () if response.given is None or isinstance(response.given.content, str) else response.given.content
    names = [turn.segment for turn in content if isinstance(turn, Message) and is_learnt(turn)]
    if not any(names):
        return []
    for name in names:
        if name is not None and name not in segments.names:
            close = nearest(name, segments.names)
            guess = f"Did you mean {close!r}? " if close else ""
            hint = f"{guess}--segments has {', '.join(segments.names)}."
            raise UserError(f"{where}: a turn of the assistant is named {name!r}, which is no segment.", hint)
    starts = np.flatnonzero(response.mask & ~np.append(False, response.mask[:-1])).tolist()
    if len(starts) > len(names) or (response.terminal and len(starts) < len(names)):
        raise UserError(
            f"{where}: {len(names)} turns of the assistant are {len(starts)} stretches of tokens, so that nobody can "
            "say which is which.",
            "Let segments begin with tokens: --segment-starts image=TOKEN.",
        )
    return [
        (start, None if name is None else segments.names.index(name))
        for start, name in zip(starts, names, strict=False)
    ]


def refuse_absent(groups: Sequence[TokenGroup], names: Sequence[str], say: Callable[[str], None]) -> None:
    """Refuse segments that no row has, and say which are missing on one side of a pair.

    Args:
        groups: marked.
        names: of the segments.
        say: told of rows that have a segment on one side alone.

    Raises:
        UserError: no row has tokens of a segment in each response that is compared.
    """
    whole, partly = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    for group in groups:
        compared = [one for one in group.responses if one.role in ("chosen", "rejected")] or group.responses
        has = np.array([_present(one, len(names)) for one in compared])
        whole += has.all(0)
        partly += has.any(0) & ~has.all(0)
    for name, both, one in zip(names, whole.tolist(), partly.tolist(), strict=True):
        if not both:
            where = f"on both sides: {one} of {len(groups)} rows have it on one" if one else "at all"
            hint = "Look at --segment-starts, at the names of turns, and at what --truncation cuts."
            raise UserError(f"No row has a token of segment {name!r} {where}.", hint)
        if one:
            say(f"warning: {one} of {len(groups)} rows have segment {name!r} on one side alone")


def _present(response: TokenResponse, count: int) -> NDArray[np.bool_]:
    return np.isin(np.arange(count), response.token_columns[COLUMN][response.mask])
