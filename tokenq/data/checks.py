"""What a loss tells apart has to differ: labels, rewards and margins that are all the same are refused."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tokenq.errors import UserError
from tokenq.records import TokenGroup


class Signal(NamedTuple):
    """What a loss learns from.

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
        raise UserError(f"{group.where}: some responses have no reward.", "Read the data with want='rewarded'.")
    return held


def _step_labels(group: TokenGroup) -> list[float]:
    labels = [one.step_labels for one in group.responses if one.step_labels is not None]
    return [float(label) for some in labels for label in some[some >= 0]]


_ONE_SIDE = "A classifier of one class has no optimum: give {} of both labels."

SIGNALS: dict[str, Signal] = {
    "labels": Signal(
        lambda group: [float(one.label) for one in group.responses if one.label is not None],
        "labels",
        _ONE_SIDE.format("responses") + " Good responses alone are for --loss sft.",
    ),
    "step_labels": Signal(_step_labels, "labels of steps", _ONE_SIDE.format("steps")),
    "rewards": Signal(
        rewards,
        "rewards",
        "Rewards that do not differ say nothing: give responses of different quality, or look at the column.",
    ),
    "margin": Signal(
        lambda group: [] if group.margin is None else [group.margin],
        "margins",
        "Take --loss bradley_terry, which needs none, or look at the column.",
        allowed=lambda margin: margin > 0,
    ),
}
"""What has to differ, by the name of the input of a loss."""


def refuse_equal(groups: Sequence[TokenGroup], inputs: Iterable[str]) -> None:
    """Refuse data in which everything that a loss tells apart is the same.

    Args:
        groups: the training data, with what the loss reads beside it.
        inputs: names of what the loss reads.

    Raises:
        UserError: says what all of it is.
    """
    for signal in (SIGNALS[name] for name in inputs if name in SIGNALS):
        values = [value for group in groups for value in signal.values(group)]
        if values and min(values) == max(values) and not signal.allowed(values[0]):
            raise UserError(
                f"All {len(values)} {signal.says} are {values[0]:g} ({groups[0].where} is the first).", signal.hint
            )
