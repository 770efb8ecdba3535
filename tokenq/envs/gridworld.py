"""Gridworlds in words: small, built in, and solved exactly; in the slippery one a step may go astray.

A map is rows parted by "/": `S` start, `G` goal (reward 1, success), `X` hole (the end, reward 0), `#` wall, `.` free.
"""

import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from tokenq.envs.environment import Environment, Step
from tokenq.envs.options import read_options
from tokenq.envs.world import END, Outcome, Solution, Values, World, best_values, luck, soft_values, world_of
from tokenq.errors import UserError

MOVES = {"north": (-1, 0), "east": (0, 1), "south": (1, 0), "west": (0, -1)}

DEFAULTS: Mapping[str, Any] = {
    "map": "S.../.#.X/...#/X..G",
    "start": "S",
    "slip": 0.0,
    "penalty": 0.0,
    "horizon": 12,
    "beta": 0.0,
}
"""Options: the map; whether episodes begin at S or, by the seed, at "any" free cell; the probability of going to the
left or the right of where one meant to; what a step costs; the most actions; the β whose soft values say what is luck
(under a reference to which every direction is as likely; 0 for the best values)."""

SLIPPERY: Mapping[str, Any] = {**DEFAULTS, "slip": 0.2}


class Grid(NamedTuple):
    """A gridworld that was worked out.

    Attributes:
        world: its free cells as states.
        values: of every state and turn.
        luck: [H, S, A, K] of every outcome.
        first: the states that episodes begin in.
        text: the map as it is shown.
        penalty: what a step costs.
        horizon: the most actions.
    """

    world: World
    values: Values
    luck: Any
    first: tuple[int, ...]
    text: str
    penalty: float
    horizon: int


def grid_factory(name: str, defaults: Mapping[str, Any]) -> Callable[[Mapping[str, str]], Callable[[], Environment]]:
    """Return the function that makes factories of a kind of gridworld.

    Args:
        name: of the environment.
        defaults: of its options.
    """

    def make(given: Mapping[str, str]) -> Callable[[], Environment]:
        grid = worked_out(**read_options(name, given, defaults))
        return lambda: Gridworld(grid)

    return make


@cache
def worked_out(map: str, start: str, slip: float, penalty: float, horizon: int, beta: float) -> Grid:
    """Return a gridworld by its options.

    Raises:
        UserError: the map is none, or a number is out of range.
    """
    rows = map.split("/")
    cells = {(r, c): cell for r, row in enumerate(rows) for c, cell in enumerate(row)}
    if len({len(row) for row in rows}) != 1 or set(cells.values()) - set("S.G#X") or "G" not in cells.values():
        raise UserError(f"The map {map!r} is none.", "Rows of equal length of S, G, X, # and . parted by /, with a G.")
    if not 0 <= slip <= 1 or horizon < 1 or beta < 0 or start not in ("S", "any"):
        raise UserError(
            "An option of the gridworld is out of range.", "slip 0…1, horizon ≥ 1, beta ≥ 0, start S or any."
        )
    free = [place for place, cell in cells.items() if cell in "S."]
    first = tuple(s for s, place in enumerate(free) if start == "any" or cells[place] == "S")
    if not first:
        raise UserError(f"The map {map!r} has no cell to begin in.", "Give it an S, or take start=any.")
    states = {place: s for s, place in enumerate(free)}

    def arrival(place: tuple[int, int], way: str, probability: float) -> Outcome:
        there = place[0] + MOVES[way][0], place[1] + MOVES[way][1]
        cell = cells.get(there, "#")
        if cell == "#":
            return Outcome(probability, states[place], -penalty)
        return Outcome(probability, states.get(there, END), float(cell == "G") - penalty, cell == "G")

    ways = tuple(MOVES)
    outcomes = []
    for place in free:
        of_state = []
        for number, way in enumerate(ways):
            astray = (ways[number - 1], ways[(number + 1) % 4]) if slip else ()
            of_state.append(
                [arrival(place, way, 1 - slip), *(arrival(place, other, slip / 2) for other in astray)],
            )
        outcomes.append(of_state)
    world = world_of([f"row {r + 1}, column {c + 1}" for r, c in free], [ways] * len(free), outcomes)
    values = soft_values(world, horizon, beta) if beta else best_values(world, horizon)
    shown = "\n".join(rows).replace("S", ".")
    return Grid(world, values, luck(world, values), first, shown, penalty, horizon)


class Gridworld:
    """One episode on a map; see `DEFAULTS` for the options."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._state, self._turn, self._random = END, 0, random.Random(0)

    def reset(self, seed: int) -> str:
        """Begin at a cell that the seed gives."""
        self._random, self._turn = random.Random(seed), 0
        self._state = self._random.choice(self._grid.first)
        return (
            f"Go {', '.join(MOVES)}: reach G, keep off X, # is a wall.\n{self._grid.text}\n"
            f"You are at {self._grid.world.names[self._state]}."
        )

    def step(self, action: str) -> Step:
        """Go where the action says, or astray."""
        if self._state == END:
            return Step("It is over.", terminated=True)
        world, turn = self._grid.world, self._turn
        self._turn += 1
        out = self._turn >= self._grid.horizon
        way = action.strip().lower().removeprefix("go ").rstrip(".")
        if way not in MOVES:
            said = f"That is no direction. Say {' or '.join(MOVES)}."
            return Step(said, -self._grid.penalty, False, out, {"invalid": True})
        place = self._state, tuple(MOVES).index(way)
        k = self._random.choices(range(world.rewards.shape[2]), world.probabilities[place])[0]
        outcome = (*place, k)
        self._state = int(world.next_states[outcome])
        info: dict[str, Any] = {"luck": float(self._grid.luck[(turn, *outcome)])}
        reward = float(world.rewards[outcome])
        if self._state != END:
            if out:
                info["success"] = False
            return Step(f"You are at {world.names[self._state]}.", reward, False, out, info)
        info["success"] = bool(world.success[outcome])
        return Step("You have reached G." if info["success"] else "You fell into X.", reward, True, False, info)

    def close(self) -> None:
        """Let go of nothing."""

    def actions(self) -> tuple[str, ...]:
        """Return the directions."""
        return () if self._state == END else tuple(MOVES)

    def copy(self) -> "Gridworld":
        """Return the same state with the same draws to come."""
        other = Gridworld(self._grid)
        other._state, other._turn = self._state, self._turn
        other._random.setstate(self._random.getstate())
        return other

    def solution(self) -> Solution:
        """Return the whole world, and where in it this is."""
        return Solution(self._grid.world, self._state, self._turn, self._grid.horizon)
