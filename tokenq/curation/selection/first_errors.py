"""Pairs of solutions that share all before the first wrong step, as Step-DPO learns from (arXiv 2406.18629).

The rejected response is the solution with the wrong step; the chosen one begins alike and goes on rightly: as the data
have it beside the solution, or as another solution of the same problem does. What both begin with cancels in a
difference of log-ratios, so that any such loss sees two continuations of one prefix; `step_dpo` learns the step in
which they differ, and nothing behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenq.errors import UserError
from tokenq.records.examples import Example, Message, Response, Text

CONTINUATION = "continuation"
"""The column of a right continuation from the first wrong step on."""

GENERATOR = "generator"
"""The column that says which model wrote a solution; where it is given, another one's is no continuation."""


@dataclass(frozen=True)
class StepPair:
    """A pair that shares a prefix.

    Attributes:
        pair: a right solution as chosen response, the wrong one as rejected.
        wrong: place of the wrong solution among the examples.
        right: place of the solution that the right one is; None where it was given beside the wrong one.
        shared: number of steps that both begin with.
    """

    pair: Example
    wrong: int
    right: int | None
    shared: int


def step_pairs(examples: Sequence[Example], values: Sequence[Mapping[str, Any]]) -> tuple[list[StepPair], int]:
    """Return a pair for each wrong solution with a right continuation, and how many wrong ones have none.

    Of several right solutions that begin like it, the first in the data is taken.

    Args:
        examples: solutions in steps with a label for each step.
        values: the columns of each example's row.

    Raises:
        UserError: a continuation is no text.
    """
    right: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for place, example in enumerate(examples):
        steps, labels = example.responses[0].steps, example.responses[0].step_labels
        if all(labels):
            for count in range(len(steps)):
                right.setdefault((str(example.prompt), _said(steps[:count])), []).append(place)
    found, without = [], 0
    for place, example in enumerate(examples):
        labels = example.responses[0].step_labels
        if all(labels):
            continue
        shared = labels.index(False)
        made = _given(place, example, values[place], shared) or _found(place, example, right, examples, values, shared)
        if made is None:
            without += 1
        else:
            found.append(made)
    return found, without


def _said(steps: Sequence[str]) -> tuple[str, ...]:
    """Return steps without what stands around them: the last one of a solution ends no line."""
    return tuple(step.strip() for step in steps)


def _given(place: int, example: Example, values: Mapping[str, Any], shared: int) -> StepPair | None:
    said = values.get(CONTINUATION)
    if said is None or said == "":
        return None
    if not isinstance(said, str):
        raise UserError(f"{example.where}: column {CONTINUATION!r} is no text.", "Write what follows the right steps.")
    response = example.responses[0]
    chosen = "".join(response.steps[:shared]) + said
    return StepPair(_pair(example, _like(response, chosen)), place, None, shared)


def _found(
    place: int,
    example: Example,
    right: Mapping[tuple[str, tuple[str, ...]], Sequence[int]],
    examples: Sequence[Example],
    values: Sequence[Mapping[str, Any]],
    shared: int,
) -> StepPair | None:
    writer = values[place].get(GENERATOR)
    for other in right.get((str(example.prompt), _said(example.responses[0].steps[:shared])), ()):
        if values[other].get(GENERATOR) == writer:
            return StepPair(_pair(example, examples[other].responses[0]), place, other, shared)
    return None


def _pair(example: Example, chosen: Response) -> Example:
    both = replace(chosen, role="chosen"), replace(example.responses[0], role="rejected")
    return replace(example, responses=both, is_pair=True)


def _like(response: Response, text: str) -> Response:
    """Return a response of this text in the form of another: a text, or one turn of an assistant."""
    content: Text = text if isinstance(response.content, str) else (Message("assistant", text),)
    return Response(content)
