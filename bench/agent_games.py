"""TextWorld games whose states are all listed, and policies that play them: for `bench.agent_worlds`."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenq.core.tensors import TokenLogps
from tokenq.envs.adapters import installed
from tokenq.envs.adapters.textworld_games import generated
from tokenq.envs.adapters.textworld_graph import Graph, graph_of
from tokenq.envs.world import END, Values, World, distances, soft_values

HORIZON, PENALTY, SCALE, BETA = 12, 0.05, 5.0, 0.5
"""Most commands; what one costs, and by how much rewards are multiplied; KL temperature."""

CARELESS = 0.65
"""Share of the reference's commands that are any, and not one of the best."""


class Game(NamedTuple):
    """A game whose commands all lead to one certain state.

    Attributes:
        next_states: [S, A] `END` after the end.
        rewards: [S, A].
        possible: [S, A] True for commands that a state has.
        best: [S, A] True for commands on a shortest way.
        wins: [S, A] True for commands that win.
        reference: [S, A] π_ref.
        values: exact soft values by the number of commands taken.
    """

    next_states: Tensor
    rewards: Tensor
    possible: Tensor
    best: Tensor
    wins: Tensor
    reference: Tensor
    values: Values

    def onward(self, policy: Tensor, values: Tensor, gains: Tensor) -> Tensor:
        """Return [S] E_π[gain + v(s')], v = 0 after the end."""
        ahead = torch.where(self.next_states == END, 0.0, values[self.next_states])
        return (policy * (gains + ahead)).sum(1)

    def expected(self, policy: Tensor, gains: Tensor) -> float:
        """Return the exact expectation of the sum of gains [S, A] over an episode of a policy [S, A]."""
        values = torch.zeros(len(policy), dtype=torch.float64)
        for _ in range(HORIZON):
            values = self.onward(policy, values, gains)
        return float(values[0])

    def visits(self, policy: Tensor) -> Tensor:
        """Return [H, S, A] the probability of each command at each turn."""
        here = torch.zeros(len(policy), dtype=torch.float64)
        here[0], found = 1.0, []
        goes_on = self.next_states != END
        for _ in range(HORIZON):
            found.append(here[:, None] * policy)
            here = torch.zeros_like(here).index_add(0, self.next_states[goes_on], found[-1][goes_on])
        return torch.stack(found)


def game_of(world: World) -> Game:
    """Return a game with its reference and exact values."""
    world = replace(world, rewards=SCALE * world.rewards)
    away = distances(world)
    next_states, wins, possible = world.next_states[..., 0], world.success[..., 0], world.possible
    best = possible & (np.where(wins, 0, away[next_states]) == away[:, None] - 1)
    reference = CARELESS * possible / possible.sum(1, keepdims=True) + (1 - CARELESS) * best / best.sum(
        1, keepdims=True
    )
    tables = (next_states, np.where(possible, world.rewards[..., 0], 0.0), possible, best, wins, reference)
    return Game(*map(torch.as_tensor, tables), soft_values(world, HORIZON, BETA, reference))


class Episodes(NamedTuple):
    """What was done: states and commands [N, T], and where there was any."""

    states: Tensor
    commands: Tensor
    mask: Tensor

    def taken(self, table: Tensor) -> Tensor:
        """Return [N, T] the table's entries of the commands, 0 beyond the end."""
        return torch.where(self.mask, table[self.states, self.commands], 0.0)

    def logps(self, table: Tensor) -> TokenLogps:
        """Return log-probs as losses see episodes: what the environment says, which is no action, parts the turns."""
        taken = self.taken(table)
        parted = torch.stack((taken, torch.zeros_like(taken)), 2).flatten(1)
        return TokenLogps(parted, torch.stack((self.mask, torch.zeros_like(self.mask)), 2).flatten(1))


def play(game: Game, policy: Tensor, states: Tensor, left: Tensor, dice: torch.Generator) -> Episodes:
    """Return episodes of a policy [S, A] from states [N], of so many commands [N] at most."""
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for turn in range(HORIZON):
        mask = (states != END) & (turn < left)
        commands = torch.where(mask[:, None], policy[states], 1.0).multinomial(1, generator=dice)[:, 0] * mask
        rows.append((torch.where(mask, states, 0), commands, mask))
        states = torch.where(mask, game.next_states[states, commands], END)
    return Episodes(*(torch.stack(columns, 1) for columns in zip(*rows, strict=True)))


def whole(game: Game, policy: Tensor, count: int, dice: torch.Generator) -> Episodes:
    """Return episodes from the beginning."""
    return play(game, policy, torch.zeros(count, dtype=torch.long), torch.full((count,), HORIZON), dice)


def planned(game: object, graph: Graph) -> dict[int, int]:
    """Return the length of the way that TextWorld's planner gives in every state, by the state's number."""
    progression = installed("textworld.generator.game", "textworld").GameProgression
    inform = installed("textworld.generator.inform7", "textworld").Inform7Game(game)
    queue, met, found = [(0, progression(game))], {0}, dict[int, int]()
    for number, here in queue:  # grows while it is read
        found[number] = len(here.winning_policy)
        actions = here.valid_actions
        commands = dict(zip(inform.gen_commands_from_actions(actions), actions, strict=True))
        for place, command in enumerate(graph.world.actions[number]):
            after = int(graph.world.next_states[number, place, 0])
            if after != END and after not in met:
                met.add(after)
                there = here.copy()
                there.update(commands[command])
                queue.append((after, there))
    return found


def described(sizes: tuple[int, int, int, int]) -> tuple[Game, str]:
    """Return a game by its sizes, and a line about its planner."""
    path = generated(*sizes)
    graph = graph_of(path, penalty=PENALTY)
    source = installed("textworld.generator.game", "textworld").Game.load(str(path.with_suffix(".json")))
    ways, least = planned(source, graph), distances(graph.world)
    longer = [length - int(least[number]) for number, length in ways.items() if length > least[number]]
    game = game_of(graph.world)
    about = (
        f"{len(least)} states; the planner's way is not the shortest in {len(longer)} of {len(ways)}, "
        f"at the beginning it takes {ways[0]} commands and the shortest {least[0]}"
    )
    return game, about
