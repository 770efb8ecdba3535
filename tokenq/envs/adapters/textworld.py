"""TextWorld: text adventures that are generated and compiled here, played on their own engine.

An action is one command. The reward is the change of the score, less a penalty. A command that the engine knows but
that is not about the game (restart, undo, …), and several at once, are refused, as they would let a model rewrite its
episode.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenq.envs.adapters import installed
from tokenq.envs.adapters.textworld_games import found, generated, left, started
from tokenq.envs.adapters.textworld_graph import Rules, graph_of
from tokenq.envs.environment import Environment, Step
from tokenq.envs.options import read_options
from tokenq.envs.world import END, Solution
from tokenq.errors import UserError

DEFAULTS: Mapping[str, Any] = {
    "rooms": 2,
    "objects": 3,
    "quest_length": 2,
    "game_seed": 1,
    "games": 1,
    "file": "",
    "commands": True,
    "penalty": 0.0,
    "max_states": 2000,
}
"""Options: rooms, objects and commands of the quest of a generated game; its seed; over how many games, of this seed
and those that follow, the seeds of episodes are spread; a ready .z8, or a folder of them, instead; whether observations
list the possible commands; what a command costs; how many states are listed at most where a game is solved."""

_REFUSED = re.compile(
    r"^(tw-.*|quit|q|restart|restore|save|undo|oops.*|again|g|script.*|transcript.*|verbose|superbrief|brief|verify|"
    r"notify.*|)$|[.,;]|[^ -~]|\b(then|and|all|everything)\b"
)
"""What is not about the game, and several commands in one."""

_PROMPT = re.compile(r"\n*>[^\n]*$")
_AFTER_THE_END = re.compile(r"\s*Would you like to RESTART, RESTORE.*$", re.S)


def make(given: Mapping[str, str]) -> Callable[[], Environment]:
    """Return a function that makes environments of these options."""
    options = read_options("textworld", given, DEFAULTS)
    if options["games"] < 1:
        raise UserError(f"--environment-options games is {options['games']}.", "Give 1 or more.")
    installed("textworld", "textworld")
    files = found(options["file"]) if options["file"] else []
    return lambda: TextWorld(options, files)


def prepare(given: Mapping[str, str], seeds: Iterable[int]) -> None:
    """Compile the games that episodes of these seeds are played in."""
    options = read_options("textworld", given, DEFAULTS)
    for number in sorted({seed % options["games"] for seed in seeds}) if not options["file"] else ():
        _game(options, [], number)


def _game(options: Mapping[str, Any], files: list[Path], seed: int) -> Path:
    if files:
        return files[seed % len(files)]
    sizes = options["rooms"], options["objects"], options["quest_length"]
    return generated(*sizes, options["game_seed"] + seed % options["games"])


class TextWorld:
    """One episode of a game; see `DEFAULTS` for the options."""

    def __init__(self, options: Mapping[str, Any], files: list[Path]) -> None:
        self._options, self._files = options, files
        self._path = Path()
        self._engine: Any = None
        self._now: Any = None
        self._rules: Rules
        self._quests: frozenset[int] = frozenset()
        self._turn, self._score = 0, 0

    def reset(self, seed: int) -> str:
        """Begin the game that the seed gives."""
        path = _game(self._options, self._files, seed)
        if path != self._path:
            self.close()
            self._path, self._engine = path, started(path)
        self._now, self._turn, self._score = self._engine.reset(), 0, 0
        self._rules = Rules(self._now["game"])
        self._quests = self._rules.first()[1]
        text, objective = self._now.feedback, self._now.objective
        return self._said(text[max(text.find(objective), 0) :])  # a title drawn in letters comes first

    def step(self, action: str) -> Step:
        """Give the engine a command."""
        self._turn += 1
        command = " ".join(action.split()).lower().rstrip(".")
        possible, facts = self._now.admissible_commands, self._facts()
        if command not in possible and (not command.isascii() or "\n" in action.strip() or _REFUSED.search(command)):
            said = self._said("That is not one command of this game.")
            return Step(said, 0.0 - self._options["penalty"], info={"invalid": True})
        self._now, score, over = self._engine.step(command)
        reward, self._score = float(score - self._score) - self._options["penalty"], score
        info: dict[str, Any] = {}
        if over:
            info["success"] = bool(self._now.won)
        elif self._facts() != facts:
            self._quests = self._rules.done(self._facts(), self._quests)
        elif command not in possible:
            info["invalid"] = True
        return Step(self._said(self._now.feedback), reward, over, info=info)

    def close(self) -> None:
        """Leave the engine to the next episode of its game."""
        if self._engine is not None:
            left(self._path, self._engine)
            self._engine, self._path = None, Path()

    def actions(self) -> tuple[str, ...]:
        """Return the commands that are possible now."""
        return () if self._now.done else tuple(self._now.admissible_commands)

    def solution(self) -> Solution:
        """Return all states of the game, and which of them it is in.

        Raises:
            UserError: there are more states than are listed.
        """
        graph = graph_of(self._path, self._options["penalty"], self._options["max_states"])
        state = END if self._now.done else graph.states[self._facts(), self._quests]
        return Solution(graph.world, state, self._turn)

    def _facts(self) -> frozenset[Any]:
        return frozenset(self._now["_facts"])

    def _said(self, text: str) -> str:
        """Return what the engine prints, without its prompt and blank lines, and what can be done."""
        lines = (line.strip() for line in _AFTER_THE_END.sub("", _PROMPT.sub("", text)).splitlines())
        said = "\n".join(line for line in lines if line)
        if not self._options["commands"] or self._now.done:
            return said
        return f"{said}\nCommands: {', '.join(self._now.admissible_commands)}"
