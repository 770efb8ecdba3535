"""The lesson of a round: what follows from its judged responses, and how it is read back from disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenq.core.tensors import TokenScorer
from tokenq.jobs.rollout.clock import Clock
from tokenq.models.identity import ModelIdentity
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig


class Lesson(NamedTuple):
    """What a round learns from.

    Attributes:
        groups: what goes through the trainer.
        files: the lines of each file of the round, by its name.
        counts: examples of each prompt from which something can be learnt.
        numbers: what is to be said of it, by name.
    """

    groups: Sequence[TokenGroup]
    files: Mapping[str, Sequence[Mapping[str, Any]]]
    counts: Sequence[int]
    numbers: Mapping[str, float]


class Learning(NamedTuple):
    """How rounds end.

    Attributes:
        noun: what is counted.
        lesson: (number of the round, its responses with rewards) → what follows.
        read: (folder of a round) → what the trainer sees, as it was written to the last bit.
        takes_all: whether a response without a finite reward stops the run; else it is left out and counted.
    """

    noun: str
    lesson: Callable[[int, Sequence[Rollout]], Lesson]
    read: Callable[[Path], list[TokenGroup]]
    takes_all: bool = False


class Scoring(NamedTuple):
    """The models of a run as scorers of tokens, as they are when a round ends.

    Attributes:
        policy: log π of the policy as it is.
        reference: log π_ref of the round's reference.
        identity: of the first reference; None where nothing reads a reference.
        device: where they compute.
        clock: measures where the time goes.
    """

    policy: TokenScorer
    reference: TokenScorer
    identity: ModelIdentity | None
    device: str
    clock: Clock


def usable(rollouts: Sequence[Rollout], config: OnlineConfig) -> list[Rollout]:
    """Return the responses that count: compared, with a reward, and not dropped for being cut."""
    cut = {(one.id, one.number) for one in rollouts if one.finish == "length" and config.truncated == "drop"}
    return [one for one in rollouts if one.compared and one.reward is not None and (one.id, one.number) not in cut]
