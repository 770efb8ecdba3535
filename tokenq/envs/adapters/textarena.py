"""TextArena: games in text for one player, and for two against an opponent that is a function.

Rewards come at the end and are the game's own. Some give a part for progress, though the game was lost, and a move that
is not allowed, made twice, ends a game: `reward=success` counts a win as 1 and all else as 0.
"""

import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenq.envs.adapters import installed
from tokenq.envs.adapters.chance import Chance
from tokenq.envs.adapters.frozen_lake import lake_of
from tokenq.envs.adapters.opponents import Opponent, find_opponent, moves_in
from tokenq.envs.environment import Environment, Step
from tokenq.envs.options import read_options
from tokenq.envs.world import Solution
from tokenq.errors import UserError, nearest, reason, unknown_name

DEFAULTS: Mapping[str, Any] = {"game": "FrozenLake-v0", "opponent": "random", "seat": 0, "reward": "score"}
"""Options: the game as TextArena names it; who plays against the model: "random" or "first" of the moves that a game
lists, or FILE.py:FUNCTION of what the player sees and a `random.Random`; the number of the model's seat; the reward of
the game ("score") or of a win ("success")."""

_OPPONENT_MOVES = 200
"""An opponent that has moved so often in a row will not come to an end."""


def make(given: Mapping[str, str]) -> Callable[[], Environment]:
    """Return a function that makes environments of these options."""
    options = read_options("textarena", given, DEFAULTS)
    games = installed("textarena", "textarena").envs.registration.ENV_REGISTRY
    if options["game"] not in games:
        close = nearest(options["game"], games) or "FrozenLake-v0"
        raise UserError(f"TextArena has no game {options['game']!r}.", f"Did you mean {close!r}?")
    if options["reward"] not in ("score", "success"):
        raise unknown_name("reward of the environment textarena", options["reward"], ("score", "success"))
    if options["seat"] not in (0, 1):
        raise UserError(f"--environment-options seat is {options['seat']}.", "Seats are 0 and 1.")
    opponent = find_opponent(options["opponent"])
    return lambda: TextArena(options, opponent)


class TextArena:
    """One game; see `DEFAULTS` for the options."""

    def __init__(self, options: Mapping[str, Any], opponent: Opponent) -> None:
        self._options, self._opponent, self._chance, self._draws = options, opponent, Chance(), random.Random()
        self._game: Any = None
        self._brackets, self._turn = False, 0
        self._seen: dict[int, str] = {}

    def reset(self, seed: int) -> str:
        """Begin the game that the seed gives; an opponent that is first has moved."""
        self._draws, self._turn = random.Random(seed), 0
        with self._chance:
            self._chance.seed(seed)
            self._seen.clear()
            self._game, self._brackets = _begun(self._options["game"], seed)
            self._others_move()
            return self._observed()

    def step(self, action: str) -> Step:
        """Make a move, and let the opponent answer."""
        self._turn += 1
        with self._chance:
            move = f"[{action.strip()}]" if self._brackets and not re.search(r"[\[\]]", action) else action
            self._game.step(move)
            state = self._game.state
            seat = self._options["seat"] if state.num_players > 1 else 0
            invalid = any("attempted an invalid move" in text for _, text, _ in state.observations[seat])
            if not self._others_move():
                return Step(self._observed(), info={"invalid": True} if invalid else {})
            rewards, infos = self._game.close()
        won, own = rewards[seat] >= 1, infos[seat]
        info = {"success": won, **({"invalid": True} if own.get("invalid_move") else {})}
        reward = float(won) if self._options["reward"] == "success" else float(rewards[seat])
        return Step(str(own.get("reason") or "The game is over."), reward, True, info=info)

    def close(self) -> None:
        """Let go of nothing."""

    def actions(self) -> tuple[str, ...] | None:
        """Return the moves that the game lists; None where it lists none."""
        state = self._game.state
        return () if state.done else moves_in(self._seen.get(state.current_player_id, "")) or None

    def solution(self) -> Solution | None:
        """Return the states of the frozen lake; None for other games."""
        return lake_of(self._game, self._turn, self._options["reward"])

    def _observed(self) -> str:
        """Return what is new to the player whose turn it is, without its own moves."""
        player, messages = self._game.get_observation()
        kept = [
            (f"Player {sender}: {text}" if sender >= 0 else text) for sender, text, _ in messages if sender != player
        ]
        text = "\n".join(re.sub(r"\n{2,}", "\n", one.strip()) for one in kept)
        self._seen[player] = text or self._seen.get(player, "")
        return text

    def _others_move(self) -> bool:
        """Return whether the game is over after the moves of the opponent, as many as there are."""
        state = self._game.state
        if state.num_players == 1:
            return bool(state.done)
        for _ in range(_OPPONENT_MOVES):
            if state.done or state.current_player_id == self._options["seat"]:
                return bool(state.done)
            self._observed()
            self._game.step(self._opponent(self._seen[state.current_player_id], self._draws))
        raise RuntimeError(f"the opponent has moved {_OPPONENT_MOVES} times in a row")


def _begun(name: str, seed: int) -> tuple[Any, bool]:
    """Return a game of one player, else of two, and whether it wants its moves in brackets.

    Raises:
        UserError: the game cannot be played here.
    """
    textarena = installed("textarena", "textarena")
    games = textarena.envs.registration.ENV_REGISTRY
    wrappers = [one.__name__ for one in games[name].default_wrappers or ()]
    problem: Exception = ValueError("it is for more than two players")
    for players in (1, 2):
        try:
            game = textarena.make(f"{name}-raw" if f"{name}-raw" in games else name)
            game.reset(num_players=players, seed=seed)
        except (AssertionError, ValueError) as refusal:  # of this number of players
            problem = refusal
        except Exception as other:
            problem = other
            break
        else:
            if (players == 1) == (type(game.state) is textarena.SinglePlayerState):
                return game, "ActionFormattingWrapper" in wrappers
    said = reason(ValueError(str(problem).strip("* \n"))).rstrip(".")  # NLTK draws a box around its words
    raise UserError(
        f"TextArena's game {name} cannot be played here: {type(problem).__name__}: {said}.",
        "Some games need files of NLTK, a newer Python, or a model; FrozenLake-v0 and TicTacToe-v0 need nothing.",
    ) from problem
