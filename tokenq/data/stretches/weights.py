"""Weights of tokens as the data give them: a number for each token, or stretches of the text with a weight each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.core.token_weights import COLUMN
from tokenq.data.encoding import ResponseText
from tokenq.data.files.local import Row
from tokenq.data.tokenize import TokenizedData
from tokenq.errors import UserError, nearest
from tokenq.records.examples import Example, Response, TokenGroup, TokenResponse

Floats = NDArray[np.float32]

_STRETCHES = "token_weight_stretches"
"""Where stretches are kept among the numbers of a response: start, end and weight of each, one after the other."""


class Given(NamedTuple):
    """Weights of one response as a cell has them.

    Attributes:
        numbers: of its tokens, or of stretches.
        stretches: whether they are (start, end, weight) in characters, one after the other.
        token_ids: the tokens that the weights are of, where the cell says.
    """

    numbers: tuple[float, ...]
    stretches: bool = False
    token_ids: tuple[int, ...] = ()


def with_given_weights(examples: Sequence[Example], rows: Sequence[Row], column: str) -> list[Example]:
    """Return pairs with the weights that a column of their rows has.

    Args:
        examples: of the rows.
        rows: of one source.
        column: a record {"chosen": …, "rejected": …} in each row, with a list of numbers, a record of `weights` and
            `token_ids`, or a list of [start, end, weight].

    Raises:
        UserError: names the row, and what is wrong with its cell.
    """
    cells = {row.where: row.values for row in rows}
    return [_weighted(example, cells[example.where], column) for example in examples]


def _weighted(example: Example, values: Mapping[str, Any], column: str) -> Example:
    if column not in values:
        close = nearest(column, list(values))
        hint = f"Did you mean {close!r}?" if close else "Add it, or take --token-weights readout:NAME."
        raise UserError(f"{example.where}: there is no column {column!r} of token weights.", hint)
    cell = values[column]
    if not isinstance(cell, Mapping) or not {"chosen", "rejected"} <= cell.keys():
        raise UserError(
            f"{example.where}: {column} is no record of chosen and rejected weights.",
            f'Write {{"{column}": {{"chosen": [1.0, …], "rejected": [1.0, …]}}}}.',
        )
    responses = [
        _with_numbers(one, _read(cell[one.role], f"{example.where}: {column} of the {one.role} response"))
        if one.role in ("chosen", "rejected")
        else one
        for one in example.responses
    ]
    return replace(example, responses=tuple(responses))


def _with_numbers(response: Response, given: Given) -> Response:
    name = _STRETCHES if given.stretches else COLUMN
    numbers = {**response.token_numbers, name: given.numbers}
    return replace(response, token_numbers=numbers, token_ids=given.token_ids or response.token_ids)


def _read(cell: Any, where: str) -> Given:
    if isinstance(cell, Mapping) and {"weights", "token_ids"} <= cell.keys():
        return Given(_numbers(cell["weights"], where), token_ids=tuple(map(int, cell["token_ids"])))
    if isinstance(cell, Sequence) and not isinstance(cell, str) and cell:
        if all(isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 3 for one in cell):
            return Given(_numbers([number for one in cell for number in one], where), stretches=True)
        return Given(_numbers(cell, where))
    raise UserError(
        f"{where} is no list of weights.", "Give a number for each token, or [start, end, weight] in characters."
    )


def _numbers(cell: Any, where: str) -> tuple[float, ...]:
    found = []
    for number in cell:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise UserError(f"{where} holds {number!r}, which is no finite number.", "Mend that row.")
        if number < 0:
            raise UserError(f"{where} holds {number:g}.", "A weight is 0 or more: to turn a token round is no weight.")
        found.append(float(number))
    return tuple(found)


def given_weights(data: TokenizedData) -> list[TokenGroup]:
    """Return the groups with the weights that the data give, and 1 for what is only read beside a pair.

    Args:
        data: tokenised with its texts, from examples of `with_given_weights`.

    Raises:
        UserError: weights are of other tokens, or all of a response are 0.
    """
    return [
        replace(
            group,
            responses=tuple(
                with_weights(one, _of_response(one, text, group.where), group.where)
                for one, text in zip(group.responses, texts, strict=True)
            ),
        )
        for group, texts in zip(data.groups, data.texts, strict=True)
    ]


def with_weights(response: TokenResponse, weights: NDArray[Any], where: str) -> TokenResponse:
    """Return a response with weights of its tokens.

    Raises:
        UserError: none of the policy's own tokens counts.
    """
    if not (weights[response.mask] > 0).any():
        raise UserError(
            f"{where}: all token weights of the {response.role} response are 0.",
            "Leave the pair out, or give a token that counts.",
        )
    return response.with_token_column(COLUMN, weights.astype(np.float32))


def _of_response(response: TokenResponse, text: ResponseText, where: str) -> Floats:
    given, size = response.given, len(response.ids)
    numbers = {} if given is None else given.token_numbers
    if given is None or not {COLUMN, _STRETCHES} & numbers.keys():
        return np.ones(size, np.float32)
    if _STRETCHES in numbers:
        return _by_stretch(np.array(numbers[_STRETCHES]).reshape(-1, 3), text.fitted(response), where)
    weights = np.array(numbers[COLUMN], np.float32)
    if given.token_ids:
        both = zip(response.ids.tolist(), given.token_ids, strict=False)
        differing = [place for place, (own, theirs) in enumerate(both) if own != theirs]
        if differing or len(given.token_ids) != len(weights):
            at = (
                f"token {differing[0] + 1}" if differing else f"{len(weights)} weights of {len(given.token_ids)} tokens"
            )
            raise _other_tokens(where, response, f"the token_ids beside them are others ({at})")
    missing = size - len(weights)
    if missing == 1 and response.terminal:
        return np.append(weights, np.float32(1))  # an EOS that was added
    if missing > 0 or (missing < 0 and response.terminal):
        raise _other_tokens(where, response, f"there are {len(weights)} weights")
    return weights[:size]  # of a response that was cut


def _other_tokens(where: str, response: TokenResponse, what: str) -> UserError:
    return UserError(
        f"{where}: token weights of the {response.role} response are not of its {len(response.ids)} tokens: {what}.",
        "Weigh the tokens of this very model's tokenizer, or give stretches of the text: [start, end, weight].",
    )


def _by_stretch(stretches: NDArray[np.float64], text: ResponseText, where: str) -> Floats:
    """Return the weight of the last stretch that a token has a character in, 1 of tokens in none."""
    starts = np.concatenate(([0], text.ends[:-1]))
    weights = np.ones(len(text.ends), np.float32)
    for start, stop, weight in stretches:
        if start >= stop:
            raise UserError(
                f"{where}: a stretch of token weights is [{start:g}, {stop:g}).", "It ends behind its start."
            )
        weights[(starts < stop) & (text.ends > start) & (text.ends > starts)] = weight
    return weights
