"""Steps of responses: their places in the text, and the columns that losses read of them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from tokenq.core.packing import step_ends
from tokenq.data.encoding import ResponseText
from tokenq.data.tokenize import TokenizedData
from tokenq.records.examples import TokenGroup, TokenResponse


def step_stretches(text: str, steps: Sequence[str]) -> list[tuple[int, int]]:
    """Return (start, end) in characters for each step; together they are the whole text.

    A step behind the place at which the text was cut is empty.

    Args:
        text: the response.
        steps: strings whose concatenation it is, but for what a template has trimmed or the limit of length cut.
    """
    ends = accumulate(steps, lambda cursor, step: _after(text, step, cursor), initial=0)
    return list(pairwise([*list(ends)[:-1], len(text)]))


def _after(text: str, step: str, cursor: int) -> int:
    """Return the end of a step in the text, or of the text if it was cut inside the step.

    A template may have trimmed it.
    """
    places = [(place, -len(said)) for said in (step, step.strip()) if (place := text.find(said, cursor)) >= 0]
    place, size = min(places, default=(len(text), 0))
    return place - size


def with_steps(data: TokenizedData) -> list[TokenGroup]:
    """Return pairs with 1 for the tokens of the first step in which the two responses differ, 0 for all others.

    A step is a line, blank lines belong to the one before them.

    Args:
        data: tokenised with its texts.
    """

    def lines(text: ResponseText) -> NDArray[np.int32]:
        starts = np.concatenate(([0], text.ends[:-1]))
        return _line_numbers(text.text)[np.minimum(starts, len(text.text))]

    return [
        deciding_steps(group, [lines(text) for text in texts])
        for group, texts in zip(data.groups, data.texts, strict=True)
    ]


def deciding_steps(group: TokenGroup, steps: Sequence[NDArray[np.int32]]) -> TokenGroup:
    """Return a pair with the token column `steps`, given [n] the step of each token of each response."""
    width = max(len(response.ids) for response in group.responses)

    def own(values: NDArray[np.int32], response: TokenResponse) -> NDArray[np.int32]:
        return np.pad(np.where(response.mask, values, -1), (0, width - len(values)), constant_values=-1)

    tokens, numbers = (
        [own(values, response) for values, response in zip(rows, group.responses, strict=True)]
        for rows in ([response.ids for response in group.responses], steps)
    )
    first = int(np.argmax(tokens[0] != tokens[1]))  # in a pair the chosen and the rejected response stand first
    step = min(side[first] if side[first] >= 0 else side.max() for side in numbers[:2])
    masks = [(side == step).astype(np.float32) for side in numbers]
    responses = [
        one.with_token_column("steps", mask[: len(one.ids)]) for one, mask in zip(group.responses, masks, strict=True)
    ]
    return replace(group, responses=tuple(responses))


def _line_numbers(text: str) -> NDArray[np.int32]:
    """Return the line number of every character and of the end; blank lines count with the line before."""
    numbers: list[int] = []
    line = -1
    for part in text.splitlines(keepends=True):
        line += bool(part.strip()) or line < 0
        numbers += [line] * len(part)
    return np.array([*numbers, max(line, 0)], np.int32)


def with_step_labels(data: TokenizedData) -> list[TokenGroup]:
    """Return the groups with 1 or 0 at the last token of a step that is right or wrong, −1 elsewhere.

    A step ends with the last token whose piece begins in it; the last one with the response (its EOS). A step that was
    cut, or that has no token of its own, has no end, and is not read; a response without an end of a step is left out.

    Args:
        data: tokenised with its texts, from examples that were read for their steps.
    """
    found: list[TokenGroup] = []
    for group, texts in zip(data.groups, data.texts, strict=True):
        responses = [_step_labelled(*both) for both in zip(group.responses, texts, strict=True)]
        kept = tuple(response for response in responses if step_ends(response).any())
        if kept:
            found.append(replace(group, responses=kept))
    return found


def _step_labelled(response: TokenResponse, text: ResponseText) -> TokenResponse:
    given, size = response.given, len(response.ids)
    labels = np.full(size, -1, np.int8)
    steps = () if given is None else given.steps
    starts = np.concatenate(([0], text.ends[:-1]))
    pieces = text.ends > starts  # a token without a piece goes with the one before it
    for number, (begin, end) in enumerate(step_stretches(text.text, steps)):
        last = number == len(steps) - 1 and response.terminal
        inside = np.flatnonzero((starts >= begin) & (starts < end) & pieces)
        if given is not None and (last or (len(inside) and (end < len(text.text) or response.terminal))):
            labels[size - 1 if last else inside[-1]] = given.step_labels[number]
    return response.with_token_column("step_labels", labels)
