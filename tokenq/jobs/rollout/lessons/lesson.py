"""The lesson of a round: what follows from its judged responses, and how it is read back from disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenq.core.tensors import TokenScorer
from tokenq.errors import UserError
from tokenq.jobs.rollout.clock import Clock
from tokenq.models.identity import ModelIdentity
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.learning import by_prompt


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
        referred: responses as the reference reads them, where that is not behind the prompts they were written to.
    """

    noun: str
    lesson: Callable[[int, Sequence[Rollout]], Lesson]
    read: Callable[[Path], list[TokenGroup]]
    takes_all: bool = False
    referred: Callable[[Sequence[Rollout]], Sequence[Rollout]] = lambda rollouts: rollouts


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


def within_accuracy(rollouts: Sequence[Rollout], bounds: Sequence[float]) -> tuple[list[Rollout], dict[str, float]]:
    """Return the responses to prompts whose mean reward is strictly between two bounds, and how many prompts are not.

    Strictly between 0 and 1 are the prompts that DAPO keeps (arXiv 2503.14476), between 0.2 and 0.8 those of PRIME
    (arXiv 2502.01456).

    Args:
        rollouts: the responses that count.
        bounds: low and high; none to keep all.

    Raises:
        UserError: a reward is no outcome between 0 and 1.
    """
    if not bounds:
        return list(rollouts), {}
    (low, high), kept, easy, hard = bounds, list[Rollout](), 0, 0
    for some in by_prompt(rollouts):
        rewards = [one.reward or 0.0 for one in some]
        if other := next((one for one in some if not 0 <= (one.reward or 0.0) <= 1), None):
            raise UserError(
                f"The judge gives {other.reward} to response {other.number} of prompt {other.id}, and "
                "--filter-accuracy takes the mean of outcomes between 0 and 1.",
                "Judge by true answers (--answer, --gold), or leave --filter-accuracy out.",
            )
        mean = sum(rewards) / len(rewards)
        easy, hard = easy + (mean >= high), hard + (mean <= low)
        kept += some if low < mean < high else []
    return kept, {"filtered_easy": float(easy), "filtered_hard": float(hard)}


def usable(rollouts: Sequence[Rollout], config: OnlineConfig) -> list[Rollout]:
    """Return the responses that count: compared, with a reward, and not dropped for being cut."""
    cut = {(one.id, one.number) for one in rollouts if one.finish == "length" and config.truncated == "drop"}
    return [one for one in rollouts if one.compared and one.reward is not None and (one.id, one.number) not in cut]
