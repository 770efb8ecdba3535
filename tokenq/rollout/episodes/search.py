"""Search over actions: the best of several in each turn, or a tree whose nodes are whole actions.

What a line of actions is worth is said by one row of `VALUES`. An environment that draws is copied with its draws to
come: what is found there is right in hindsight, which no player has.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import log, sqrt

from tokenq.envs.environment import solution_of
from tokenq.envs.world import END, Floats, World, best_values
from tokenq.errors import UserError
from tokenq.rollout.episodes.game import ActionSearch, Planned, Player, Rules, Spent
from tokenq.rollout.episodes.lines import Line, Scene, propose, read, root_of, to_the_end, tried
from tokenq.rollout.episodes.seat import Seat
from tokenq.rollout.writer import Sample

EXPLORATION = 1.0
"""Weight of √(log visits of the parent / visits) beside values rescaled to [0, 1]."""


def by_implicit_reward(lines: Sequence[Line], scene: Scene) -> None:
    """Value lines by Σ β log π/π_ref: at the optimum Σ r + V*(s') − V*(s), so that the order is that of Q*.

    Raises:
        UserError: there is no reference.
    """
    if scene.player.worth is None:
        raise UserError("Implicit rewards need a reference.", "Give --reference, or take --search-value return.")
    read(lines, scene.player.worth)
    for line in lines:
        line.value = line.implicit


def by_return(lines: Sequence[Line], scene: Scene) -> None:
    """Value lines by the environment's own rewards, to the end of the episode as the policy would play it.

    The best that was ever seen is kept as the episode's plan.
    """
    for line, end in zip(lines, to_the_end(lines, scene), strict=True):
        line.value = end.total
        if line.seat.plan is None or end.total > line.seat.plan[0]:
            line.seat.plan = end.total, end.steps()


def by_exact_value(lines: Sequence[Line], scene: Scene) -> None:
    """Value lines by rewards so far and the best that can follow, where the states of the environment can be listed.

    Raises:
        UserError: they cannot.
    """
    tried(lines, scene)
    for line in lines:
        solution = None if line.environment is None else solution_of(line.environment)
        if solution is None:
            raise UserError(
                f"The states of {line.seat.game.name} cannot be listed, so that nothing is known exactly.",
                "Take --search-value return, or implicit.",
            )
        horizon = min(scene.rules.max_turns, solution.horizon or scene.rules.max_turns)
        over = line.over or solution.state == END
        line.value = line.total + (0.0 if over else _values(solution.world, horizon)[line.turn, solution.state])


VALUES: Mapping[str, Callable[[Sequence[Line], Scene], None]] = {
    "implicit": by_implicit_reward,
    "return": by_return,
    "exact": by_exact_value,
}
"""What lines are worth, by name."""


@lru_cache(maxsize=8)
def _values(world: World, horizon: int) -> Floats:
    """Return [H + 1, S] the best values of a world by the number of actions taken."""
    return best_values(world, horizon).values


def best_of_n(roots: Sequence[Line], search: ActionSearch, scene: Scene) -> None:
    """Give every root its children, valued."""
    for root, children in zip(roots, propose(roots, search.candidates, scene), strict=True):
        root.children = children
    VALUES[search.value]([child for root in roots for child in root.children], scene)
    for root in roots:
        for child in root.children:
            child.best = child.value


def tree(roots: Sequence[Line], search: ActionSearch, scene: Scene) -> None:
    """Grow a tree below every root: each simulation goes down to a line that nobody has gone on from, and goes on."""
    for _ in range(search.simulations):
        leaves = [_leaf(root) for root in roots if not root.solved]
        if not leaves:
            return
        tried(leaves, scene)
        for leaf in leaves:
            if leaf.over:  # known only now, where lines are valued without trying them
                _carry_back(leaf, leaf.value)
        leaves = [leaf for leaf in leaves if not leaf.over]
        for leaf, children in zip(leaves, propose(leaves, search.candidates, scene) if leaves else [], strict=True):
            leaf.children = children
        VALUES[search.value]([child for leaf in leaves for child in leaf.children], scene)
        for leaf in leaves:
            for child in leaf.children:
                _carry_back(child, child.value)


def _leaf(line: Line) -> Line:
    while line.children:
        open_ones = [child for child in line.children if not child.solved]
        low, high = (side(child.best for child in line.children) for side in (min, max))

        def bound(child: Line, low: float = low, high: float = high, visits: int = line.visits) -> float:
            known = (child.best - low) / (high - low) if high > low else 0.0
            return known + EXPLORATION * sqrt(log(visits) / child.visits)

        line = max(open_ones, key=bound)
    return line


def _carry_back(line: Line, value: float) -> None:
    here: Line | None = line
    while here is not None:
        here.visits += 1
        here.best = max(here.best, value)
        here.solved = here.over or (bool(here.children) and all(child.solved for child in here.children))
        here = here.parent


SEARCHES: Mapping[str, Callable[[Sequence[Line], ActionSearch, Scene], None]] = {"best_of_n": best_of_n, "tree": tree}
"""Searches over actions, by name."""


def chosen(seats: Sequence[Seat], search: ActionSearch, player: Player, rules: Rules, spent: Spent) -> list[Sample]:
    """Return the action that a search takes in each episode.

    Args:
        seats: episodes that go on.
        search: how it is searched.
        player: proposes actions.
        rules: how it is played.
        spent: is told what it costs.
    """
    with contextlib.ExitStack() as opened:
        roots = [root_of(seat) for seat in seats]
        for root in roots:
            root.seat.plan = _goes_on(root)
        SEARCHES[search.method](roots, search, Scene(player, rules, spent, opened))
        return [_taken(root) for root in roots]


def _goes_on(root: Line) -> tuple[float, tuple[Planned, ...]] | None:
    """Return what is left of a plan; None where what happened is not what it has seen."""
    if root.seat.plan is None or root.state is None:
        return None
    total, (taken, *left) = root.seat.plan
    kept = taken.ids == root.state.ids and abs(taken.total - root.total) < 1e-9
    return (total, tuple(left)) if kept else None


def _taken(root: Line) -> Sample:
    if root.seat.plan is not None:
        return root.seat.plan[1][0].sample
    best = max(root.children, key=lambda child: child.best)
    assert best.sample is not None  # it is no root
    return best.sample
