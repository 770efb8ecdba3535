"""Gymnasium: environments whose actions are a handful of numbers, drawn as text, and solved where that is possible.

An action is its name or its number. Where a picture marks a place by colour, brackets mark it: [ ] where one is, < >
the same with a passenger, ( ) who waits, { } where to go.
"""

import json
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tokenq.envs.adapters import installed
from tokenq.envs.environment import Environment, Step
from tokenq.envs.options import read_options
from tokenq.envs.world import END, Floats, Outcome, Solution, World, best_values, luck, soft_values, world_of
from tokenq.errors import UserError, reason

DEFAULTS: Mapping[str, Any] = {"game": "FrozenLake-v1", "arguments": "{}", "horizon": 30, "beta": 0.0}
"""Options: the environment as Gymnasium names it; keywords for it as JSON, such as {"is_slippery": false}; the most
actions; the β whose soft values say what is luck (0 for the best values)."""


class Kind(NamedTuple):
    """What Gymnasium does not say of an environment.

    Attributes:
        names: of its actions.
        success: the least reward of the last action of an episode that succeeds.
    """

    names: tuple[str, ...] = ()
    success: float = 1e-9


KINDS = {
    "FrozenLakeEnv": Kind(("left", "down", "right", "up"), 1.0),
    "CliffWalkingEnv": Kind(("up", "right", "down", "left"), -1.0),
    "TaxiEnv": Kind(("south", "north", "east", "west", "pickup", "dropoff"), 20.0),
}

_COLOUR = re.compile(r"\x1b\[([\d;]+)m(.)\x1b\[0m", re.S)
_MARKS = {"41": "[{}]", "43": "[{}]", "42": "<{}>", "34;1": "({})", "35": "{{{}}}"}


def make(given: Mapping[str, str]) -> Callable[[], Environment]:
    """Return a function that makes environments of these options."""
    options = read_options("gymnasium", given, DEFAULTS)
    gymnasium = installed("gymnasium", "gymnasium")
    try:
        arguments = json.loads(options["arguments"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mode = "ansi" if "ansi" in gymnasium.spec(options["game"]).make().metadata["render_modes"] else None
            fixed = {"max_episode_steps": options["horizon"], "render_mode": mode, **arguments}
            bare = gymnasium.make(options["game"], **fixed)
    except Exception as problem:
        raise UserError(
            f"Gymnasium makes no {options['game']} of {options['arguments']}: {type(problem).__name__}: "
            f"{reason(problem)}.",
            "Check game and arguments; FrozenLake-v1, CliffWalking-v1 and Taxi-v4 come with it.",
        ) from problem
    if not isinstance(bare.action_space, gymnasium.spaces.Discrete):
        raise UserError(f"The actions of {options['game']} are {bare.action_space}.", "They have to be Discrete.")
    kind = KINDS.get(type(bare.unwrapped).__name__, Kind())
    world = _world(bare.unwrapped, kind)
    horizon, beta = options["horizon"], options["beta"]
    lucky = None
    if world is not None:
        lucky = luck(world, soft_values(world, horizon, beta) if beta else best_values(world, horizon))
    return lambda: Gymnasium(gymnasium.make(options["game"], **fixed), kind, world, lucky)


def _world(bare: Any, kind: Kind) -> World | None:
    """Return the world of an environment that shows its transitions as P[state][action], as toy texts do."""
    transitions = getattr(bare, "P", None)
    if transitions is None:
        return None
    outcomes = [
        [
            [
                Outcome(p, END if over else int(after), float(reward), bool(over and reward >= kind.success))
                for p, after, reward, over in of_action
            ]
            for of_action in of_state.values()
        ]
        for of_state in transitions.values()
    ]
    names = [f"state {s}" for s in transitions]
    return world_of(names, [kind.names or tuple(map(str, of_state)) for of_state in transitions.values()], outcomes)


class Gymnasium:
    """One episode; see `DEFAULTS` for the options."""

    def __init__(self, game: Any, kind: Kind, world: World | None, lucky: Floats | None) -> None:
        self._game, self._kind, self._world, self._over, self._turn = game, kind, world, True, 0
        self._luck = lucky
        numbers = range(int(game.action_space.start), int(game.action_space.start + game.action_space.n))
        self._actions = dict(zip(kind.names or map(str, numbers), numbers, strict=True))

    def reset(self, seed: int) -> str:
        """Begin an episode."""
        observation, _ = self._game.reset(seed=seed)
        self._over, self._turn = False, 0
        return f"{self._shown(observation)}\nActions: {', '.join(self._actions)}"

    def step(self, action: str) -> Step:
        """Take the action of a name or a number."""
        said = action.strip().strip("[]().").lower()
        number = self._actions.get(said, int(said) if said.isdecimal() else -1)
        if number not in self._actions.values():
            return Step(f"That is no action. Actions: {', '.join(self._actions)}", info={"invalid": True})
        before = self._turn, getattr(self._game.unwrapped, "s", 0), number
        observation, reward, over, cut, _ = self._game.step(number)
        self._over, self._turn = over or cut, self._turn + 1
        info: dict[str, Any] = {"success": bool(over and reward >= self._kind.success)} if self._over else {}
        if self._world is not None and self._luck is not None:
            place, after = before[1:], END if over else self._game.unwrapped.s
            same = (self._world.next_states[place] == after) & (self._world.rewards[place] == reward)
            info["luck"] = float(self._luck[before][same & (self._world.probabilities[place] > 0)][0])
        return Step(self._shown(observation), float(reward), bool(over), bool(cut), info)

    def close(self) -> None:
        """Close the environment."""
        self._game.close()

    def actions(self) -> tuple[str, ...]:
        """Return the names of the actions, their numbers where they have none."""
        return () if self._over else tuple(self._actions)

    def solution(self) -> Solution | None:
        """Return the whole world, and where in it this is; None where transitions are not shown."""
        if self._world is None:
            return None
        here = END if self._over else int(self._game.unwrapped.s)
        return Solution(self._world, here, self._turn, self._game.spec.max_episode_steps)

    def _shown(self, observation: Any) -> str:
        if self._game.render_mode is None:
            return str(observation)
        return _COLOUR.sub(lambda found: _MARKS.get(found[1], "{}").format(found[2]), self._game.render()).strip("\n")
