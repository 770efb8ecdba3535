"""TextArena's frozen lake as a finite world: what it gives for a fall, for a wall and for the goal, from every cell."""

import copy
from typing import Any

from tokenq.envs.world import END, Outcome, Solution, World, world_of

_WAYS = {"[up]": (-1, 0), "[down]": (1, 0), "[left]": (0, -1), "[right]": (0, 1)}
_ALLOWED_ERRORS = 1


def lake_of(game: Any, turn: int, reward: str) -> Solution | None:
    """Return the world of a frozen lake, and where in it a game is; None for another game.

    A state is a cell and whether the last move led into a wall: a second such move ends the game. The game's own limit
    of 100 moves is left out.

    Args:
        game: of TextArena.
        turn: how many moves were made.
        reward: "score" for the game's own rewards, "success" for 1 at the goal.
    """
    if type(game).__name__ != "FrozenLakeEnv":
        return None
    now = game.state
    grid = now.game_state["grid"]
    cells = [(r, c) for r, row in enumerate(grid) for c, cell in enumerate(row) if cell not in "HG"]
    states = {(cell, errors): 0 for cell in cells for errors in range(_ALLOWED_ERRORS + 1)}
    states = {state: number for number, state in enumerate(states)}
    part = {} if reward == "success" else _progress(game)
    here = END if now.done else states[now.game_state["player_pos"], now.error_count]
    return Solution(_world(grid, states, part), here, turn)


def _world(grid: list[list[str]], states: dict[Any, int], part: dict[tuple[int, int], float]) -> World:
    """Return the world, with what is given for having come to a cell."""
    outcomes = []
    for cell, errors in states:
        of_state = []
        for down, right in _WAYS.values():
            there = cell[0] + down, cell[1] + right
            inside = 0 <= there[0] < len(grid) and 0 <= there[1] < len(grid)
            if not inside and errors == _ALLOWED_ERRORS:
                one = Outcome(1.0, END, part.get(cell, 0.0))
            elif not inside:
                one = Outcome(1.0, states[cell, errors + 1], 0.0)
            elif grid[there[0]][there[1]] == "G":
                one = Outcome(1.0, END, 1.0, True)
            elif grid[there[0]][there[1]] == "H":
                one = Outcome(1.0, END, part.get(there, 0.0))
            else:
                one = Outcome(1.0, states[there, 0], 0.0)
            of_state.append([one])
        outcomes.append(of_state)
    names = [f"({row}, {column}){' at a wall' * errors}" for (row, column), errors in states]
    return world_of(names, [tuple(_WAYS)] * len(states), outcomes)


def _progress(game: Any) -> dict[tuple[int, int], float]:
    """Return the reward that the game itself gives for having come to each cell."""
    game = copy.deepcopy(game)
    found = {}
    for cell in game.cell_mapping.values():
        game.state.game_state["player_pos"] = cell
        found[cell] = float(game._get_percentage_completion())
    return found
