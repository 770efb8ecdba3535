"""Gridworlds in words as token MDPs: an action is spelt by tokens, and what came of it is a token of the environment.

Their soft optimum is found twice: over the tree of all that can be written, as in every other world here, and on the
map, by the number of actions taken, as environments solve themselves.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenq.envs.gridworld import worked_out
from tokenq.envs.world import END, Values, World, soft_values
from tokenq.worlds.draws import KINDS as DRAWN
from tokenq.worlds.draws import generator, normal
from tokenq.worlds.mdp import NO_STATE, TokenMDP

MAPS = ("S.G/.X.", "SX./..G", "S./XG")
"""Small maps, in turn: one where the way along the edge is safe, one with a detour, one between wall and hole."""

BESIDE = "SG/X."
"""A map on which one step decides."""

PENALTY, SLIP = 0.1, 0.4


class Unfolded(NamedTuple):
    """All that can be written on a map.

    Attributes:
        world: as a token MDP.
        turns: [S] how many actions were taken.
        cells: [S] where on the map a state is.
        actions: [S, V] the action that a token completes, −1 where it completes none.
        values: of the map, by the number of actions taken.
    """

    world: TokenMDP
    turns: Tensor
    cells: Tensor
    actions: Tensor
    values: Values


class _Node(NamedTuple):
    """A state of the tree: where on the map, after how many actions, what is spelt of the next one."""

    turn: int
    cell: int
    spelt: tuple[int, ...]


def unfolded(world: World, start: int, horizon: int, beta: float, reference: Tensor) -> Unfolded:
    """Return the tree of a map.

    Args:
        world: the map; every state has the same actions, a power of 2 of them.
        start: the cell that episodes begin in.
        horizon: the most actions.
        beta: KL temperature.
        reference: [cells, actions] π_ref of whole actions.
    """
    size = len(world.actions[0])
    width = size.bit_length() - 1
    nodes, depths, rows = [_Node(0, start, ())], [0], list[dict[int, tuple[int, float, float, int]]]()
    for place, node in enumerate(nodes):  # grows while it is read
        row: dict[int, tuple[int, float, float, int]] = {}
        rows.append(row)
        if node.cell == END or node.turn == horizon:
            continue
        for token, after, reward, chance, action in _answers(world, reference, node, width):
            row[token] = (len(nodes), reward, chance, action)
            nodes.append(after)
            depths.append(depths[place] + 1)
    vocab = 1 + max(max(row, default=0) for row in rows)
    filled = [(s, token, *entry) for s, row in enumerate(rows) for token, entry in row.items()]
    columns = [np.array(column) for column in zip(*filled, strict=True)]
    states, tokens, following, rewards, chances, actions = map(torch.from_numpy, columns)

    def table(values: Tensor, elsewhere: float) -> Tensor:
        return torch.full((len(nodes), vocab), elsewhere, dtype=values.dtype).index_put((states, tokens), values)

    tree = TokenMDP(
        beta=beta,
        horizon=max(depths),
        next_states=table(following, NO_STATE),
        depths=torch.tensor(depths),
        prompts=torch.zeros(len(nodes), dtype=torch.long),
        environment=torch.tensor([len(node.spelt) == width for node in nodes]),
        rewards=table(rewards, 0.0),
        reference_logps=table(chances.log(), -torch.inf),
    )
    values = soft_values(world, horizon, beta, reference.numpy())
    turns, cells = (torch.tensor([getattr(node, name) for node in nodes]) for name in ("turn", "cell"))
    return Unfolded(tree, turns, cells, table(actions, -1), values)


def _answers(world: World, reference: Tensor, node: _Node, width: int) -> list[tuple[int, _Node, float, float, int]]:
    """Return what can come in a state: (token, state that follows, reward, probability, action that is complete)."""
    if len(node.spelt) < width:
        mass = reference[node.cell].reshape((2,) * width)[node.spelt]
        found = []
        for digit in range(2):
            spelt = (*node.spelt, digit)
            action = sum(one << (width - 1 - place) for place, one in enumerate(spelt)) if len(spelt) == width else -1
            chance = float(mass[digit].sum() / mass.sum())
            found.append((digit + 1, node._replace(spelt=spelt), 0.0, chance, action))
        return found
    action = sum(one << (width - 1 - place) for place, one in enumerate(node.spelt))
    merged: dict[tuple[int, float], float] = {}
    outcome = world.next_states[node.cell, action], world.rewards[node.cell, action]
    for cell, reward, chance in zip(*outcome, world.probabilities[node.cell, action], strict=True):
        if chance > 0:
            merged[int(cell), float(reward)] = merged.get((int(cell), float(reward)), 0.0) + float(chance)
    return [
        (place, _Node(node.turn + 1, cell, ()), reward, chance, -1)
        for place, ((cell, reward), chance) in enumerate(merged.items(), 1)
    ]


def on_map(seed: int, map: str, slip: float, horizon: int, ways: tuple[int, ...] = (0, 1, 2, 3)) -> Unfolded:
    """Return the tree of a map, with a random reference and a β of its own for each seed.

    Args:
        seed: of what is drawn.
        map: the map.
        slip: the probability that a step goes astray.
        horizon: the most actions.
        ways: the directions that can be taken, by their numbers.
    """
    grid = worked_out(map, "S", slip, PENALTY, horizon, 0.0)
    chosen, world = list(ways), grid.world
    world = replace(
        world,
        actions=tuple(tuple(texts[way] for way in chosen) for texts in world.actions),
        next_states=world.next_states[:, chosen],
        probabilities=world.probabilities[:, chosen],
        rewards=world.rewards[:, chosen],
        success=world.success[:, chosen],
    )
    reference = normal((len(world.names), len(chosen)), generator(seed)).softmax(-1)
    return unfolded(world, grid.first[0], horizon, (0.5, 0.25, 1.0)[seed % 3], reference)


def text_gridworld(seed: int) -> Unfolded:
    """Return a map on which every step goes where it is meant to; three actions of two tokens each."""
    return on_map(seed, MAPS[seed % len(MAPS)], 0.0, 3)


def two_turns(seed: int) -> Unfolded:
    """Return the same map for two actions."""
    return on_map(seed, MAPS[seed % len(MAPS)], 0.0, 2)


def slippery_gridworld(seed: int) -> Unfolded:
    """Return a map on which two steps in five go astray; two actions of two tokens each."""
    return on_map(seed, MAPS[seed % len(MAPS)], SLIP, 2)


def slippery_step(seed: int) -> Unfolded:
    """Return a map with one decision: to the east the goal, to the south a hole, and two steps in five go astray."""
    return on_map(seed, BESIDE, SLIP, 1, (1, 2))


def _tree(make: Callable[[int], Unfolded]) -> Callable[[int], TokenMDP]:
    return lambda seed: make(seed).world


KINDS: dict[str, Callable[[int], TokenMDP]] = {
    **DRAWN,
    "text gridworld": _tree(text_gridworld),
    "text gridworld, two turns": _tree(two_turns),
    "slippery gridworld": _tree(slippery_gridworld),
    "one slippery step": _tree(slippery_step),
}
"""Every kind of world that a claim may be checked in."""
