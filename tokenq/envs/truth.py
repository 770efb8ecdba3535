"""Which actions of an episode were the best that could be done: ground truth, where an environment can be solved.

Of two ways that are worth the same the shorter one is better, so that a detour is a mistake where nothing costs
anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from tokenq.envs.environment import Environment, Step, solution_of
from tokenq.envs.world import END, Solution, Values, World, best_values, distances

HASTE = 1e-6
"""What an action costs here beside its reward."""

_EQUAL = 1e-9


def optimal_actions(environment: Environment, seed: int, actions: Sequence[str]) -> list[bool | None] | None:
    """Return whether each action of an episode was one of the best, found by playing it again.

    Args:
        environment: as it was when the episode was played; it is reset.
        seed: of the episode.
        actions: of the episode.

    Returns:
        One answer for each action, None where it has none (after the end; a text that the environment took for an
        action that it does not list, in a world that draws); or None where its states cannot be listed.
    """
    environment.reset(seed)
    found = list[bool | None]()
    before = solution_of(environment)
    if before is None:
        return None
    for action in actions:
        step = environment.step(action)
        after = solution_of(environment)
        found.append(None if after is None else _is_best(before, action, step, after))
        before = after or before
    return found


def _is_best(before: Solution, action: str, step: Step, after: Solution) -> bool | None:
    world, turn = before.world, before.turn
    horizon = before.horizon or 4 * int(distances(world).max(initial=0)) + 16
    if before.state == END:
        return None
    if before.horizon is None:
        turn = 0  # as much is ahead in every turn
    values = _hasty(world, horizon)
    place = None if step.info.get("invalid") else _place(world.actions[before.state], action)
    if place is not None:
        worth = values.q_values[turn, before.state, place]
    elif step.info.get("invalid") or not _draws(world):  # what it is worth is what it led to
        worth = step.reward - HASTE + (0.0 if after.state == END else values.values[turn + 1, after.state])
    else:
        return None
    return bool(worth >= values.values[turn, before.state] - _EQUAL)


def _place(known: Sequence[str], action: str) -> int | None:
    said = " ".join(action.lower().split()).rstrip(".")
    return next((known.index(form) for form in (said, said.removeprefix("go ")) if form in known), None)


def _draws(world: World) -> bool:
    return bool(((world.probabilities > 0).sum(-1) > 1).any())


@lru_cache(maxsize=64)
def _hasty(world: World, horizon: int) -> Values:
    """Return the best values where every action costs a little."""
    return best_values(replace(world, rewards=np.where(world.probabilities > 0, world.rewards - HASTE, 0.0)), horizon)
