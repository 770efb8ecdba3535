"""Monte-Carlo tree search over tokens, with the policy as prior; the whole tree is returned.

A simulation walks from the root down to a prefix that nobody has looked at, lets the model read its last token, gives
it children and a value, and carries the value back. What is fully known is not visited again, so with enough
simulations the best response of the tree is the exact one. The trees of many prompts grow side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokenq.core.tensors import Frontier
from tokenq.search.branches import Branch, Limits, Progress, Visited, Walk, grown, silent
from tokenq.search.guidance import OBJECTIVES, Objective, Value, so_far
from tokenq.search.sampling import Dice, Sampling, draw, filtered, mixed_seed
from tokenq.search.tree import RULES, Halving, Node, Tree


@dataclass(frozen=True)
class Aim:
    """What trees are searched for.

    Attributes:
        objective: what is maximised, a sum over tokens.
        beta: KL temperature.
        value: what a prefix is worth; `so_far` also tells the children of a prefix apart before they are visited.
        sampling: how rollouts are drawn; temperature 0 writes the likeliest token.
        seed: of all that is drawn.
    """

    objective: Objective = OBJECTIVES["reward"]
    beta: float = 1.0
    value: Value = so_far
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    seed: int = 0


@dataclass
class _Search:
    """The tree of one prompt."""

    limits: Limits
    tree: Tree
    aim: Aim
    nodes: list[Node]
    dice: Dice
    root: int = 0
    left: int = 0
    halving: Halving | None = None
    rolled: list[Branch] = field(default_factory=list)
    done: bool = False

    def leaf(self) -> int | None:
        """Return the node that a simulation ends in, None for one that needs no step of the model."""
        place = self.root
        while self.nodes[place].children:
            place = self._choose(place)
        node = self.nodes[place]
        if not node.ends:
            return place
        node.value, node.solved = node.branch.score, True
        self._carry_back(place, node.value)
        self._settle(node.parent)
        return None

    def _choose(self, place: int) -> int:
        node = self.nodes[place]
        children = [self.nodes[child] for child in node.children]
        if place == self.root and self.tree.rule == "gumbel":
            if self.halving is None:
                self.halving = Halving([child.prior for child in children], self.left, self.dice)
            return node.children[self.halving.next(node, children, self.tree)]
        bounds = RULES[self.tree.rule](node, children, self.tree)
        open_ones = [number for number, child in enumerate(children) if not child.solved]
        return node.children[max(open_ones, key=lambda number: bounds[number])]

    def expand(self, place: int, state: Any, branch: Branch, children: Sequence[Branch]) -> None:
        """Give a node that the model has read its children, most likely first.

        Args:
            place: the node.
            state: of the frontier in which it was read.
            branch: its prefix, at its row there.
            children: the prefix with one more token.
        """
        for after in children:
            token, prior = after.tokens[-1], after.logps[-1]
            ends = self.limits.ends(token, len(after.tokens))
            guess = after.score if ends or (self.aim.value is so_far and not self.tree.rollouts) else None
            self.nodes[place].children.append(len(self.nodes))
            self.nodes.append(Node(after, place, prior, ends, guess, place=(state, branch.row)))

    def finish(self, place: int, value: float) -> None:
        """Carry the value of a node that was visited first back to the root."""
        self.nodes[place].value = value
        self._carry_back(place, value)
        self._settle(place)

    def _carry_back(self, place: int, value: float) -> None:
        while place >= 0:
            node = self.nodes[place]
            node.visits += 1
            node.total += value
            node.best = max(node.best, value)
            place = node.parent

    def _settle(self, place: int) -> None:
        """Mark a node whose children are all known, and its parents in turn; its best is then the best of theirs."""
        while place >= 0:
            node = self.nodes[place]
            if not node.children or not all(self.nodes[child].solved for child in node.children):
                return
            node.solved = True
            node.best = max(self.nodes[child].best for child in node.children)
            place = node.parent

    def count(self) -> None:
        """Note that a simulation is over: choose the next token, or end, where it was the last."""
        self.left -= 1
        while not self.done and (self.left <= 0 or self.nodes[self.root].solved):
            if self.tree.commit == "never" or not self.nodes[self.root].children:
                self.done = True
                return
            self._commit()
            self.done = self.nodes[self.root].ends

    def _commit(self) -> None:
        node = self.nodes[self.root]
        children = [self.nodes[child] for child in node.children]
        if self.halving is not None and not node.solved:
            best = self.halving.best(node, children, self.tree)
        else:
            order = [(child.best if node.solved else child.visits, child.best) for child in children]
            best = max(range(len(children)), key=lambda number: order[number])
        self.root, self.left, self.halving = node.children[best], self.tree.simulations, None

    def candidates(self) -> list[Branch]:
        """Return the complete responses, best first; where there is none, the best prefix as it stands."""
        unique = {node.branch.tokens: node.branch for node in self.nodes if node.ends and node.visits}
        unique |= {branch.tokens: branch for branch in self.rolled}
        if not unique:
            visited = [node for node in self.nodes if node.visits]
            return [max(visited, key=lambda node: (len(node.branch.tokens), node.best)).branch] if visited else []
        return sorted(unique.values(), key=lambda branch: -branch.score)


def mcts(
    walk: Walk,
    tree: Tree | None = None,
    aim: Aim | None = None,
    progress: Progress = silent,
) -> list[tuple[list[Branch], list[Visited]]]:
    """Return for every prompt the complete responses of its tree, best first, and the tree.

    Where no response is complete, the longest prefix is returned as it stands (not terminal).

    Args:
        walk: prompts and limits, at their beginning.
        tree: how the trees are searched.
        aim: what for.
        progress: told (simulations done for the prompt that has had most, most simulations).

    Raises:
        UserError: a budget smaller than one step, or an objective without what it needs.
    """
    tree, aim = tree or Tree(), aim or Aim()
    limits = walk.limits
    searches = [
        _Search(
            limits,
            tree,
            aim,
            [Node(root, -1, 0.0, False)],
            Dice(mixed_seed(aim.seed, prompt, 0)),
            left=tree.simulations,
        )
        for prompt, root in zip(walk.prompts, walk.roots(), strict=True)
    ]
    _expand(searches, [(search, 0) for search in range(len(searches))], walk.roots(), walk.frontier)
    for search in searches:
        search.finish(0, aim.value([search.nodes[0].branch])[0])
    most = tree.simulations * (limits.max_new_tokens if tree.commit == "token" else 1)
    for done in range(most):
        _simulate(searches, walk, aim)
        progress(done + 1, most)
        if all(search.done for search in searches):
            break
    return [(search.candidates(), _as_visited(search.nodes, tree.backup)) for search in searches]


def _simulate(searches: Sequence[_Search], walk: Walk, aim: Aim) -> None:
    """Run one simulation in every tree that is not done."""
    leaves: list[tuple[int, int]] = []
    for prompt, search in enumerate(searches):
        if search.done:
            continue
        place = search.leaf()
        if place is not None and not walk.may_step(prompt, 1):
            search.done = True
        elif place is not None:
            leaves.append((prompt, place))
        else:
            search.count()
    if not leaves:
        return
    nodes = [searches[prompt].nodes[place] for prompt, place in leaves]
    places = [node.place for node in nodes if node.place is not None]
    branches = walk.step_from(places, [node.branch for node in nodes])
    for node in nodes:
        node.place = None
    _expand(searches, leaves, branches, walk.frontier)
    scored = _rollouts(searches, branches, walk) if searches[0].tree.rollouts else aim.value(branches)
    for (prompt, place), value in zip(leaves, scored, strict=True):
        searches[prompt].finish(place, value)
        searches[prompt].count()


def _expand(
    searches: Sequence[_Search], leaves: Sequence[tuple[int, int]], branches: Sequence[Branch], frontier: Frontier
) -> None:
    """Give nodes that the model has read the children that their tree asks for.

    Args:
        searches: all trees.
        leaves: (tree, node) of each.
        branches: the prefix of each node, at its row of the frontier.
        frontier: what may come next on each.
    """
    tree, aim = searches[0].tree, searches[0].aim
    size = frontier.logps.shape[1]
    best = frontier.logps.topk(min(tree.children, size) if tree.children else size)
    tokens, logps = best.indices.tolist(), best.values.tolist()
    possible = [
        [token for token, logp in zip(tokens[branch.row], logps[branch.row], strict=True) if logp > -torch.inf]
        for branch in branches
    ]
    parents = [branch for branch, own in zip(branches, possible, strict=True) for _ in own]
    children = iter(
        grown(parents, [token for own in possible for token in own], frontier, aim.objective.score(frontier, aim.beta))
    )
    for (number, place), branch, own in zip(leaves, branches, possible, strict=True):
        searches[number].expand(place, frontier.state, branch, [next(children) for _ in own])


def _rollouts(searches: Sequence[_Search], branches: Sequence[Branch], walk: Walk) -> list[float]:
    """Return the mean score of a few responses that are written to their end from each of some branches."""
    count = searches[0].tree.rollouts
    running = {(number, copy): branch for number, branch in enumerate(branches) for copy in range(count)}
    scores: list[list[float]] = [[] for _ in branches]
    while running:
        frontier = walk.frontier
        added = searches[0].aim.objective.score(frontier, searches[0].aim.beta)
        logps = filtered(frontier.logps, searches[0].aim.sampling)
        now = list(running.values())
        tokens = draw(logps, [branch.row for branch in now], [searches[branch.prompt].dice for branch in now])
        longer: dict[tuple[int, int], Branch] = {}
        for place, after in zip(running, grown(now, tokens, frontier, added), strict=True):
            search = searches[after.prompt]
            if search.limits.ends(after.tokens[-1], len(after.tokens)) or not walk.may_step(after.prompt, count):
                scores[place[0]].append(after.score)
                search.rolled.append(after)
            else:
                longer[place] = after
        running = dict(zip(longer, walk.step(list(longer.values())), strict=True)) if longer else {}
    return [sum(own) / len(own) for own in scores]


def _as_visited(nodes: Sequence[Node], backup: str) -> list[Visited]:
    """Return the tree as it is kept at rest."""
    rows = []
    for node in nodes:
        branch = node.branch
        value = node.q(backup) if node.visits else (branch.score if node.guess is None else node.guess)
        token, logp = (branch.tokens[-1], branch.logps[-1]) if branch.tokens else (-1, 0.0)
        rows.append(Visited(node.parent, token, logp, branch.score, node.ends, node.visits, value))
    return rows
