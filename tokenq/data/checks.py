"""Refuses data in which everything that a loss tells apart is the same: labels, rewards, margins."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse


class Difference(NamedTuple):
    """A number that a loss tells examples apart by.

    Attributes:
        values: those of a group.
        says: what they are, for messages.
        hint: what to do where they do not differ.
        allowed: whether all may have this value.
    """

    values: Callable[[TokenGroup], list[float]]
    says: str
    hint: str
    allowed: Callable[[float], bool] = lambda value: False


def rewards(group: TokenGroup) -> list[float]:
    """Return the rewards of all responses as the data has them.

    Raises:
        UserError: some have none.
    """
    held = [one.given.score for one in group.responses if one.given is not None and one.given.score is not None]
    if len(held) < len(group.responses):
        raise UserError(f"{group.where}: some responses have no reward.", "Read the data with selection='rewarded'.")
    return held


def outcomes(group: TokenGroup) -> list[float]:
    """Return what every response came to, from 0 for wrong to 1 for right; NaN for one that is read beside others only.

    That is its reward, else its label, else its side of a pair.

    Raises:
        UserError: a response has none of these, or a reward outside [0, 1].
    """
    return [_outcome(group.where, one) for one in group.responses]


def _outcome(where: str, response: TokenResponse) -> float:
    if response.role in ("mismatched", "calibration"):
        return math.nan
    score = None if response.given is None else response.given.score
    label = None if response.given is None else response.given.label
    if score is None and label is None and response.role == "plain":
        raise UserError(f"{where}: a response has no outcome.", "Give a column label, or reward in [0, 1].")
    side = response.role == "chosen" if label is None else label
    value = float(side) if score is None else score
    if not 0 <= value <= 1:
        hint = "1 is right and 0 is wrong: give labels, or rewards on that scale."
        raise UserError(f"{where}: an outcome of {value:g} is outside [0, 1].", hint)
    return value


def _step_labels(group: TokenGroup) -> list[float]:
    labels = [one.token_columns["step_labels"] for one in group.responses if "step_labels" in one.token_columns]
    return [float(label) for some in labels for label in some[some >= 0]]


_ONE_SIDE = "A classifier of one class has no optimum: give {} of both labels."

LABELS = Difference(
    lambda group: [float(one.role == "chosen") for one in group.responses if one.role in ("chosen", "rejected")],
    "labels",
    _ONE_SIDE.format("responses") + " Good responses alone are for --loss sft.",
)
STEP_LABELS = Difference(_step_labels, "labels of steps", _ONE_SIDE.format("steps"))
REWARDS = Difference(
    rewards,
    "rewards",
    "Rewards that do not differ say nothing: give responses of different quality, or look at the column.",
)
OUTCOMES = Difference(
    lambda group: [value for value in outcomes(group) if not math.isnan(value)],
    "outcomes",
    _ONE_SIDE.format("responses"),
)
MARGINS = Difference(
    lambda group: [] if group.margin is None else [group.margin],
    "margins",
    "Take --loss bradley_terry, which needs none, or look at the column.",
    allowed=lambda margin: margin > 0,
)


def refuse_equal(groups: Sequence[TokenGroup], *differences: Difference) -> None:
    """Refuse data in which everything that a loss tells apart is the same.

    Args:
        groups: the training data, with what the loss reads beside it.
        differences: what has to differ.

    Raises:
        UserError: says what all of it is.
    """
    for one in differences:
        values = [value for group in groups for value in one.values(group)]
        if values and min(values) == max(values) and not one.allowed(values[0]):
            raise UserError(
                f"All {len(values)} {one.says} are {values[0]:g} ({groups[0].where} is the first).", one.hint
            )
