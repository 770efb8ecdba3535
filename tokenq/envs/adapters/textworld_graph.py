"""The states of a TextWorld game, all of them, by breadth-first search over its facts: ground truth for its values.

TextWorld's own planner is none: it gives the chain of the quest that was generated, with what was undone put in front,
and shorter ways may exist. A state is what is true (a set of facts) and which quests are done. What the game prints may
differ between two visits of a state (things lie in the order they were dropped in); what can be done and what it earns
does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenq.envs.adapters import installed
from tokenq.envs.world import END, Outcome, World, world_of
from tokenq.errors import UserError

State = tuple[frozenset[Any], frozenset[int]]
"""Facts, and the numbers of the quests that are done."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A game whose states were listed.

    Attributes:
        world: the states and commands as numbers; state 0 is the beginning.
        states: their numbers.
    """

    world: World
    states: dict[State, int]


class Rules:
    """What a game does, without its prose.

    Args:
        game: a `textworld.generator.game.Game`.
    """

    def __init__(self, game: Any) -> None:
        self._game, self._quests = game, game.quests
        self._inform = installed("textworld.generator.inform7", "textworld").Inform7Game(game)
        self._state = installed("textworld.logic", "textworld").State

    def first(self) -> State:
        """Return the state that the game begins in."""
        facts = frozenset(self._game.world.facts)
        return facts, self.done(facts, frozenset())

    def done(self, facts: frozenset[Any], before: frozenset[int]) -> frozenset[int]:
        """Return the numbers of the quests that are done, those of before among them."""
        state = self._state(self._game.kb.logic, facts)
        return before | {number for number, quest in enumerate(self._quests) if quest.is_winning(state)}

    def commands(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield the commands that are possible in a state, in order, and where each leads."""
        facts, quests = state
        actions = list(
            self._state(self._game.kb.logic, facts).all_applicable_actions(
                self._game.kb.rules.values(), self._game.kb.types.constants_mapping
            )
        )
        texts = self._inform.gen_commands_from_actions(actions)
        for text, action in sorted(dict(zip(texts, actions, strict=True)).items()):
            after = facts - action.removed | action.added
            yield text, (state if after == facts else (after, self.done(after, quests)))

    def outcome(self, before: State, after: State, number: int) -> Outcome:
        """Return what going from one state to another means.

        Args:
            before: a state.
            after: the next.
            number: of the next.
        """
        reward = float(sum(self._quests[one].reward for one in after[1] - before[1]))
        won = all(one in after[1] for one, quest in enumerate(self._quests) if quest.win_events and not quest.optional)
        return Outcome(1.0, END if won or self._lost(after) else number, reward, won)

    def _lost(self, state: State) -> bool:
        here = self._state(self._game.kb.logic, state[0])
        return any(quest.is_failing(here) for quest in self._quests if not quest.optional)


@cache
def graph_of(path: Path, penalty: float = 0.0, max_states: int = 2000) -> Graph:
    """Return all states of a game.

    Args:
        path: of the compiled game, with its .json beside it.
        penalty: what a command costs.
        max_states: at most so many are listed.

    Raises:
        UserError: there are more, or they have no end.
    """
    game = installed("textworld.generator.game", "textworld").Game.load(str(path.with_suffix(".json")))
    if any(quest.repeatable for quest in game.quests):
        raise UserError(f"A quest of the game {path} can be done again and again.", "Take a game without such a quest.")
    rules = Rules(game)
    states = {rules.first(): 0}
    queue = list(states)
    commands: list[list[str]] = []
    outcomes: list[list[list[Outcome]]] = []
    for state in queue:  # grows while it is read
        commands.append([])
        outcomes.append([])
        for text, after in rules.commands(state):
            one = rules.outcome(state, after, states.get(after, len(states)))
            if one.state != END and after not in states:
                states[after] = len(states)
                queue.append(after)
            commands[-1].append(text)
            outcomes[-1].append([one._replace(reward=one.reward - penalty)])
        if len(states) > max_states:
            raise UserError(
                f"The game {path} has more than {max_states:,} states ({len(queue) - len(commands):,} of those found "
                "were not looked at).",
                "Take fewer rooms or objects, or list more with max_states.",
            )
    names = [f"state {number}" for number in states.values()]
    return Graph(world_of(names, commands, outcomes), states)
