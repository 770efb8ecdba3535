"""A finite world as arrays, and its exact values by backward induction: what is best, and what is soft-optimal.

A state is a number. In state s the a-th possible action leads with probability `probabilities[s, a, k]` to
`next_states[s, a, k]` and earns `rewards[s, a, k]`. Actions of a state that has fewer than others are padded.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

END = -1
"""The number that stands for every end."""

Floats = NDArray[np.float64]


class Outcome(NamedTuple):
    """What may come of an action: how likely it is, where it leads, what it earns, whether it ends in success."""

    probability: float
    state: int
    reward: float
    success: bool = False


@dataclass(frozen=True, eq=False)
class World:
    """S states, at most A actions in one, at most K outcomes of one.

    Attributes:
        names: of the states, in words.
        actions: [S] the texts of the actions that are possible in each.
        next_states: [S, A, K] `END` where the episode is over.
        probabilities: [S, A, K] sum to 1 over the outcomes of an action; 0 where there is none.
        rewards: [S, A, K] of the outcomes.
        success: [S, A, K] True where the episode ends in success.
    """

    names: tuple[str, ...]
    actions: tuple[tuple[str, ...], ...]
    next_states: NDArray[np.int64]
    probabilities: Floats
    rewards: Floats
    success: NDArray[np.bool_]

    @property
    def possible(self) -> NDArray[np.bool_]:
        """[S, A] True for actions that a state has."""
        counts = np.array([len(texts) for texts in self.actions], dtype=np.int64)
        return np.arange(self.next_states.shape[1]) < counts[:, None]

    def ahead(self, values: Floats) -> Floats:
        """Return [S, A, K] v(s') of every outcome, 0 after the end.

        Args:
            values: [S] v.
        """
        return np.where(self.next_states == END, 0.0, values[self.next_states])


@dataclass(frozen=True, eq=False)
class Values:
    """Values of every state with t = 0, 1, … H actions taken of H.

    Attributes:
        q_values: [H, S, A] Q_t(s, a), −inf for actions that a state has not.
        values: [H + 1, S] V_t(s), 0 for t = H.
    """

    q_values: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class Solution:
    """A world that can be solved, and the state that an environment is in.

    Attributes:
        world: all that can be reached.
        state: the number of the state now, `END` after the end.
        turn: how many actions were taken.
        horizon: how many an episode has at most; None where it does not end by itself.
    """

    world: World
    state: int
    turn: int
    horizon: int | None = None


def world_of(
    names: Sequence[str], actions: Sequence[Sequence[str]], outcomes: Sequence[Sequence[Sequence[Outcome]]]
) -> World:
    """Return the arrays of a world.

    Args:
        names: [S] of states.
        actions: of every state.
        outcomes: of every action of every state.
    """
    wide = max((len(of_state) for of_state in outcomes), default=0)
    deep = max((len(of_action) for of_state in outcomes for of_action in of_state), default=0)
    shape = (len(names), wide, deep)
    next_states, success = np.full(shape, END), np.zeros(shape, dtype=bool)
    probabilities, rewards = np.zeros(shape), np.zeros(shape)
    for s, of_state in enumerate(outcomes):
        for a, of_action in enumerate(of_state):
            for k, one in enumerate(of_action):
                probabilities[s, a, k], next_states[s, a, k], rewards[s, a, k], success[s, a, k] = one
    return World(tuple(names), tuple(map(tuple, actions)), next_states, probabilities, rewards, success)


def best_values(world: World, horizon: int) -> Values:
    """Return V_t(s) = max_a Q_t(s, a) with Q_t(s, a) = Σ_k p (r + V_{t+1}(s')).

    Args:
        world: the world.
        horizon: H, how many actions an episode has at most.
    """
    return _induction(world, horizon, lambda q: q.max(-1, initial=-np.inf))


def soft_values(world: World, horizon: int, beta: float, prior: Floats | None = None) -> Values:
    """Return V_t(s) = β log Σ_a π_ref(a|s) exp(Q_t(s, a)/β), with Q_t(s, a) = Σ_k p (r + V_{t+1}(s')).

    The soft-optimal policy is π*_t(a|s) = π_ref(a|s) exp((Q_t(s, a) − V_t(s))/β) (Eq. 4 of arXiv 2404.12358, whose Q*
    holds β log π_ref besides).

    Args:
        world: the world.
        horizon: H, how many actions an episode has at most.
        beta: KL temperature.
        prior: [S, A] π_ref; None for one that takes every possible action with the same probability.
    """
    possible = world.possible
    weights = possible / np.maximum(possible.sum(-1, keepdims=True), 1) if prior is None else prior
    with np.errstate(divide="ignore"):
        logps = np.where(possible, np.log(weights), -np.inf)

    def soft(q: Floats) -> Floats:
        gains = np.where(np.isinf(logps), -np.inf, q / beta + np.where(np.isinf(logps), 0.0, logps))
        top = gains.max(-1)
        return np.asarray(beta * (top + np.log(np.exp(gains - top[:, None]).sum(-1))))

    return _induction(world, horizon, soft)


def luck(world: World, values: Values) -> Floats:
    """Return [H, S, A, K] r + V_{t+1}(s') − Q_t(s, a): what an outcome adds to what was expected of its action."""
    ahead = np.stack([world.rewards + world.ahead(later) for later in values.values[1:]])
    return np.where(world.probabilities > 0, ahead - np.where(world.possible, values.q_values, 0.0)[..., None], 0.0)


def distances(world: World) -> NDArray[np.int64]:
    """Return [S] the least number of actions after which an episode can end in success, −1 where none leads there."""
    before: list[set[int]] = [set() for _ in world.names]
    found = np.full(len(world.names), -1)
    queue: deque[int] = deque()
    for s, a, k in zip(*np.nonzero(world.probabilities > 0), strict=True):
        target = int(world.next_states[s, a, k])
        if world.success[s, a, k] and found[s] < 0:
            found[s] = 1
            queue.append(int(s))
        elif target != END:
            before[target].add(int(s))
    while queue:
        here = queue.popleft()
        for state in before[here]:
            if found[state] < 0:
                found[state] = found[here] + 1
                queue.append(state)
    return found


def _induction(world: World, horizon: int, worth: Any) -> Values:
    possible = world.possible
    q_values, values = np.empty((horizon, *possible.shape)), np.zeros((horizon + 1, len(world.names)))
    for turn in range(horizon - 1, -1, -1):
        expected = (world.probabilities * (world.rewards + world.ahead(values[turn + 1]))).sum(-1)
        q_values[turn] = np.where(possible, expected, -np.inf)
        values[turn] = worth(q_values[turn])
    return Values(q_values, values)
