"""What a round writes to: prompts or seeds of an environment, behind two functions."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenq.records.episodes import Episode
from tokenq.records.rollouts import Rollout


class Written(NamedTuple):
    """What was written to one prompt.

    Attributes:
        rollouts: the responses.
        episodes: what they are of, where an environment was acted in.
    """

    rollouts: Sequence[Rollout]
    episodes: Sequence[Episode] = ()


class Writing(NamedTuple):
    """How the policy and others write.

    Attributes:
        prompts: how many a round may choose from.
        of_round: (number of the round, version of the policy, places of prompts) → all responses to each.
        of_evaluation: (version of the policy, places of held-out prompts) → the greedy response to each.
    """

    prompts: int
    of_round: Callable[[int, int, Sequence[int]], list[Written]]
    of_evaluation: Callable[[int, Sequence[int]], list[Written]]
