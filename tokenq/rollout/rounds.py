"""The examples of a run in rounds: step n learns from those of its round, which is written when nobody has yet.

Examples are pairs, or single responses with an advantage for each token. How many a round will have is known only when
it is judged, and the schedule of the learning rate before the first step. So every round has as many steps as its
prompts could fill; steps for which it has no examples are empty, and the loop passes them by.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tokenq.core.losses.units import Unit
from tokenq.records.examples import Group, TokenGroup
from tokenq.rollout.methods import EVERYTHING
from tokenq.training.source import Offline, Part


class Plan(NamedTuple):
    """How many examples every round can have at most, and so how many steps.

    Attributes:
        examples: [rounds] most examples that each learns from.
        batch_size: examples of a step.
        epochs: passes over the examples of a round.
    """

    examples: tuple[int, ...]
    batch_size: int
    epochs: float

    def steps(self, examples: int) -> int:
        """Return the steps that so many examples fill."""
        return math.ceil(self.epochs * math.ceil(examples / self.batch_size))

    def size(self, number: int, examples: int) -> int:
        """Return how many examples of a round an update takes.

        More than was asked for where there are more than could be planned: the parts of episodes, which a template that
        writes the past anew has split.
        """
        most = self.examples[number - 1]
        return self.batch_size if examples <= most else math.ceil(examples / math.ceil(most / self.batch_size))

    def starts(self) -> list[int]:
        """Return the step at which each round begins, and the one at which the last ends."""
        starts = [0]
        for examples in self.examples:
            starts.append(starts[-1] + max(1, self.steps(examples)))
        return starts

    def place(self, step: int) -> tuple[int, int]:
        """Return the round of a step, from 1, and the step's number in it, from 0."""
        starts = self.starts()
        number = max(place for place, start in enumerate(starts[:-1]) if start <= step)
        return number + 1, step - starts[number]


def affordable(rounds: int, prompts: int, most: int, budget: int) -> list[int]:
    """Return how many prompts each round has, for the rounds that a budget of judgements pays for.

    Every prompt is charged the most that it can take, so that the plan is known before anything is judged.

    Args:
        rounds: as many as are asked for.
        prompts: of a round.
        most: judgements that a prompt can take.
        budget: judgements of the whole run.
    """
    paid = min(budget // most, rounds * prompts)
    whole, rest = divmod(paid, prompts)
    return [prompts] * whole + [rest] * (rest > 0)


def planned(fresh: Sequence[int], offline: int, replay: float, batch_size: int, epochs: float) -> Plan:
    """Return the plan of a run.

    Args:
        fresh: most new examples of each round.
        offline: those that were there before the first.
        replay: share of what is learnt that comes from earlier ones; `EVERYTHING` for all of them.
        batch_size: examples of a step.
        epochs: passes over the examples of a round.
    """
    most = []
    for number, new in enumerate(fresh):
        earlier = offline + sum(fresh[:number])
        most.append(new + min(earlier, replayed(new, replay, earlier)))
    return Plan(tuple(most), batch_size, epochs)


def replayed(fresh: int, replay: float, earlier: int) -> int:
    """Return how many earlier pairs join so many new ones: none where there are no new ones.

    A share γ of all means γ/(1 − γ) earlier pairs for each new one (DICE).
    """
    if not fresh:
        return 0
    return earlier if replay == EVERYTHING else min(earlier, round(fresh * replay / (1 - replay)))


def draw_replay(pool: Sequence[TokenGroup], count: int, seed: int, number: int) -> list[TokenGroup]:
    """Return so many of the earlier pairs, in their order: a function of the seed and the round."""
    dice = np.random.default_rng([seed, number, _REPLAY])
    return [pool[place] for place in np.sort(dice.permutation(len(pool))[:count])]


_REPLAY = 0x5EED
"""Sets the draws of replay apart from others of the same seed and round."""


@dataclass
class Rounds:
    """A `Source` of examples that are written while it is asked for them.

    Attributes:
        plan: when each round begins and ends.
        unit: what is counted.
        seed: of the order of examples.
        groups_of: (round, whether the run stands at its start) → what it learns from; writes it where nobody has.
    """

    plan: Plan
    unit: Unit
    seed: int
    groups_of: Callable[[int, bool], Sequence[Group]]
    _now: tuple[int, Offline | None] = field(default=(0, None), init=False)

    @property
    def per_epoch(self) -> None:
        """Nothing: a round is no pass over data that are there."""
        return None

    @property
    def total(self) -> int:
        """Return the steps of all rounds."""
        return self.plan.starts()[-1]

    def step(self, number: int) -> list[Part]:
        """Return the examples of the update after `number` others; none where its round has no more."""
        round_, place = self.plan.place(number)
        if self._now[0] != round_:
            groups = self.groups_of(round_, place == 0)
            seed = int(np.random.SeedSequence([self.seed, round_]).generate_state(1)[0])
            size = self.plan.size(round_, sum(map(self.unit.size, groups)))
            self._now = round_, Offline(groups, self.unit, size, seed) if groups else None
        offline = self._now[1]
        if offline is None or place >= math.ceil(self.plan.epochs * offline.per_epoch):
            return []
        return offline.step(place)
