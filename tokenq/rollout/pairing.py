"""Pairs from rewards: the best against the worst, all, drawn labels, or regularised so that both are equally long.

A way is one function of a whole round and one row. It sees what the compared responses to each prompt are worth and how
long they are, and returns which of them are pairs. Two responses of one reward are a tie and no pair, and neither are
two of the same tokens: a loss would learn nothing from either, or noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidates:
    """The compared responses to one prompt that a judge gave a number.

    Attributes:
        rewards: [n] what each is worth; larger is better.
        lengths: [n] tokens.
        tokens: of each, to tell equal ones.
        turns: of each the places at which its turns begin; nothing for responses of one turn.
    """

    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    tokens: Sequence[tuple[int, ...]]
    turns: Sequence[tuple[int, ...]] = ()

    def __len__(self) -> int:
        """Return n."""
        return len(self.rewards)


Pair = tuple[int, int]
"""(chosen, rejected), as places among the candidates of a prompt."""


@dataclass(frozen=True)
class RoundPairs:
    """The pairs of a round.

    Attributes:
        pairs: of every prompt.
        numbers: what the way has to say of the round, by name.
    """

    pairs: list[list[Pair]]
    numbers: Mapping[str, float] = field(default_factory=dict)


class Pairing(NamedTuple):
    """A row of the table.

    Attributes:
        pairs: (candidates of every prompt, generator of the round) → the pairs.
        most: (candidates of a prompt) → the most pairs that they can give.
        shared: (candidates of a prompt, a pair) → how many of the first tokens of both belong to the pair's prompt.
    """

    pairs: Callable[[Sequence[Candidates], np.random.Generator], RoundPairs]
    most: Callable[[int], int]
    shared: Callable[[Candidates, Pair], int] = lambda one, pair: 0


def best_worst(prompts: Sequence[Candidates], dice: np.random.Generator) -> RoundPairs:
    """Return the best against the worst response to each prompt; the first of equal ones counts."""
    return RoundPairs([_extremes(one, one.rewards) for one in prompts])


def every_pair(prompts: Sequence[Candidates], dice: np.random.Generator) -> RoundPairs:
    """Return every two responses of different rewards."""
    return RoundPairs([_ordered(one, combinations(range(len(one)), 2)) for one in prompts])


def drawn_labels(prompts: Sequence[Candidates], dice: np.random.Generator) -> RoundPairs:
    """Return neighbours, the first against the second and so on, labelled by Bradley-Terry draws from their rewards.

    The first is chosen with probability σ(r_1 − r_2): rewards are taken as those of the preference model.
    """
    found = []
    for one in prompts:
        neighbours = [(place, place + 1) for place in range(0, len(one) - 1, 2)]
        chances = [1 / (1 + np.exp(one.rewards[j] - one.rewards[i])) for i, j in neighbours]
        drawn = dice.random(len(neighbours)) < np.array(chances)
        pairs = [(i, j) if wins else (j, i) for (i, j), wins in zip(neighbours, drawn, strict=True)]
        found.append([pair for pair in pairs if _differ(one, pair)])
    return RoundPairs(found)


def length_regularised(prompts: Sequence[Candidates], dice: np.random.Generator) -> RoundPairs:
    """Return the best against the worst by r − α |y|, with the α at which both are equally long (DICE, Eq. 5 and 6).

    Lengths are tokens. The mean gap |y_w| − |y_l| falls with α in steps, at the α at which two responses to a prompt
    change places; so it is found where it passes zero, exactly, and no grid is walked.
    """
    alpha = _balance(prompts)
    pairs = [_extremes(one, one.rewards - alpha * one.lengths) for one in prompts]
    numbers = {"length_alpha": alpha, "length_gap": _gap(prompts, alpha), "length_gap_without": _gap(prompts, 0.0)}
    return RoundPairs(pairs, numbers)


def shared_prefix(prompts: Sequence[Candidates], dice: np.random.Generator) -> RoundPairs:
    """Return each response beside the one of another reward with which it shares most turns.

    What both have done alike is the prompt of the pair, as in REFUEL (arXiv 2410.04612): the pair compares what follows
    from one state.
    """
    return RoundPairs([_neighbours(one) for one in prompts])


def _neighbours(one: Candidates) -> list[Pair]:
    found: dict[Pair, None] = {}
    for i in range(len(one)):
        others = [j for j in range(len(one)) if one.rewards[j] != one.rewards[i] and _differ(one, (i, j))]
        if others:
            gaps = {j: (common_turns(one, (i, j)), abs(one.rewards[i] - one.rewards[j])) for j in others}
            nearest = max(others, key=gaps.__getitem__)
            found[(i, nearest) if one.rewards[i] > one.rewards[nearest] else (nearest, i)] = None
    return list(found)


def common_turns(one: Candidates, pair: Pair) -> int:
    """Return how many tokens the turns have that both begin with, with what is said behind them."""
    first, other = (one.tokens[place] for place in pair)
    alike = next(
        (at for at, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other))
    )
    starts = set(one.turns[pair[0]]) & set(one.turns[pair[1]]) if one.turns else set()
    return max((start for start in starts if start <= alike), default=0)


def _balance(prompts: Sequence[Candidates]) -> float:
    """Return the α, among the middles between its steps, at which the mean gap of lengths is nearest to zero."""
    steps = {0.0}
    for one in prompts:
        for i, j in combinations(range(len(one)), 2):
            if one.lengths[i] != one.lengths[j]:
                steps.add(float((one.rewards[i] - one.rewards[j]) / (one.lengths[i] - one.lengths[j])))
    edges = np.array(sorted(steps))
    middles = np.concatenate(([edges[0] - 1.0], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 1.0]))
    low, high = 0, len(middles) - 1
    while low < high:  # the first middle whose gap is not above zero
        middle = (low + high) // 2
        low, high = (low, middle) if _gap(prompts, middles[middle]) <= 0 else (middle + 1, high)
    around = {*middles[max(0, low - 1) : low + 1].tolist(), 0.0}
    return float(min(around, key=lambda alpha: (abs(_gap(prompts, alpha)), abs(alpha))))


def _gap(prompts: Sequence[Candidates], alpha: float) -> float:
    """Return the mean of |y_w| − |y_l| over the pairs at one α, 0 where there are none."""
    gaps = [
        one.lengths[chosen] - one.lengths[rejected]
        for one in prompts
        for chosen, rejected in _extremes(one, one.rewards - alpha * one.lengths)
    ]
    return float(np.mean(gaps)) if gaps else 0.0


def _extremes(one: Candidates, rewards: NDArray[np.float64]) -> list[Pair]:
    if len(one) < 2:
        return []
    best, worst = int(rewards.argmax()), int(rewards.argmin())
    return [(best, worst)] if rewards[best] > rewards[worst] and _differ(one, (best, worst)) else []


def _ordered(one: Candidates, places: "combinations[tuple[int, int]]") -> list[Pair]:
    pairs = [(i, j) if one.rewards[i] > one.rewards[j] else (j, i) for i, j in places]
    return [(i, j) for i, j in pairs if one.rewards[i] > one.rewards[j] and _differ(one, (i, j))]


def _differ(one: Candidates, pair: Pair) -> bool:
    return one.tokens[pair[0]] != one.tokens[pair[1]]


PAIRINGS: dict[str, Pairing] = {
    "best_worst": Pairing(best_worst, lambda n: min(1, n // 2)),
    "all": Pairing(every_pair, lambda n: n * (n - 1) // 2),
    "bradley_terry": Pairing(drawn_labels, lambda n: n // 2),
    "length_regularised": Pairing(length_regularised, lambda n: min(1, n // 2)),
    "shared_prefix": Pairing(shared_prefix, lambda n: min(n, n * (n - 1) // 2), common_turns),
}
"""Every way to make pairs by its name."""
