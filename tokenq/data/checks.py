"""Refuses data in which everything that a loss tells apart is the same: labels, rewards, margins."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup


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
