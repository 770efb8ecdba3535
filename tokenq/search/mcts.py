"""Monte-Carlo tree search over tokens, with the policy as prior; the whole tree is returned.

A simulation walks from the root down to a prefix that nobody has looked at, lets the model read its last token, gives
it children and a value, and carries the value back. What is fully known is not visited again, so with enough
simulations the best response of the tree is the exact one. The trees of many prompts grow side by side.

Every number of a tree is on one scale: what is said of complete responses. With a judge that is its word, else the sum
of the objective; a leaf is worth what its rollouts are worth at their ends, or what is said of it as it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tokenq.core.tensors import Frontier
from tokenq.listener import Progress, silent
from tokenq.search.branches import Branch, Limits, Visited, Walk, grown
from tokenq.search.guidance import OBJECTIVES, SearchObjective, Value
from tokenq.search.rollouts import written
from tokenq.search.sampling import Dice, mixed_seed
from tokenq.search.settings import Sampling, Tree
from tokenq.search.tree import RULES, Halving, Node, as_visited


@dataclass(frozen=True)
class Aim:
    """The aim of a tree search.

    Attributes:
        objective: what is maximised where nothing judges, a sum over tokens.
        beta: KL temperature.
        value: judges responses, and with `rollouts` 0 prefixes: the tree is then searched for what it says, and for
            nothing else. None: for the objective.
        sampling: how rollouts are drawn; temperature 0 writes the likeliest token.
        seed: of all that is drawn.
    """

    objective: SearchObjective = OBJECTIVES["likelihood"]
    beta: float = 0.1
    value: Value | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0

    def scored(self, branches: Sequence[Branch]) -> list[Branch]:
        """Return branches with their scores: what the judge says of them, without one the sum that they have."""
        if self.value is None or not branches:
            return list(branches)
        return [replace(one, score=score) for one, score in zip(branches, self.value(branches), strict=True)]

    def added(self, frontier: Frontier) -> torch.Tensor | None:
        """Return each token's share of the score of its branch; None for a judge, who scores whole texts."""
        return None if self.value is not None else self.objective.score(frontier, self.beta)


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

    def leaf(self) -> int:
        """Return the node in which a simulation ends: one that the model has not read, or a complete response."""
        place = self.root
        while self.nodes[place].children:
            place = self._choose(place)
        return place

    def _choose(self, place: int) -> int:
        node = self.nodes[place]
        children = [self.nodes[child] for child in node.children]
        if place == self.root and self.tree.tree_rule == "gumbel":
            if self.halving is None:
                self.halving = Halving([child.prior for child in children], self.left, self.dice)
            return node.children[self.halving.next(node, children, self.tree)]
        bounds = RULES[self.tree.tree_rule](node, children, self.tree)
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
            known = self.aim.value is None and (ends or not self.tree.rollouts)
            guess = after.score if known else None
            self.nodes[place].children.append(len(self.nodes))
            self.nodes.append(Node(after, place, prior, ends, guess, place=(state, branch.row)))

    def finish(self, place: int, branch: Branch, value: float) -> None:
        """Carry the value of a node that was visited first back to the root.

        Args:
            place: the node.
            branch: its prefix, with its score.
            value: what it is worth.
        """
        node = self.nodes[place]
        node.branch, node.solved = branch, node.ends
        self._carry_back(place, value)
        self._settle(node.parent if node.ends else place)

    def _carry_back(self, place: int, value: float) -> None:
        while place >= 0:
            node = self.nodes[place]
            if not node.visits:
                node.value = value
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
        """Return the responses that were found, best first, complete ones before those that a limit cut.

        Where there is none, the longest prefix that was valued is returned as it stands, else the likeliest token.
        """
        unique = {node.branch.tokens: node.branch for node in self.nodes if node.ends and node.visits}
        unique |= {branch.tokens: branch for branch in self.rolled}
        if unique:
            return sorted(unique.values(), key=lambda branch: (not self._over(branch), -branch.score))
        visited = [node for node in self.nodes if node.visits and node.branch.tokens]
        if visited:
            return [max(visited, key=lambda node: (len(node.branch.tokens), node.best)).branch]
        return self.aim.scored([self.nodes[child].branch for child in self.nodes[0].children[:1]])

    def _over(self, branch: Branch) -> bool:
        return self.limits.ends(branch.tokens[-1], len(branch.tokens))


def mcts(
    walk: Walk,
    tree: Tree | None = None,
    aim: Aim | None = None,
    progress: Progress = silent,
) -> list[tuple[list[Branch], list[Visited]]]:
    """Return for every prompt the complete responses of its tree, best first, and the tree.

    Where no response is complete, the best that there is is returned as it stands (not terminal).

    Args:
        walk: prompts and limits, at their beginning.
        tree: how the trees are searched.
        aim: what for.
        progress: told (simulations done for the prompt that has had most, most simulations).

    Raises:
        UserError: a budget smaller than one step, or an objective without what it needs.
    """
    tree, aim = tree or Tree(), aim or Aim()
    searches = [
        _Search(own, tree, aim, [Node(root, -1, 0.0, False)], Dice(mixed_seed(aim.seed, prompt, 0)))
        for prompt, own, root in zip(walk.prompts, walk.own, walk.roots(), strict=True)
    ]
    _expand(searches, [(search, 0) for search in range(len(searches))], walk.roots(), walk.frontier)
    for search, root in zip(searches, walk.roots() if tree.rollouts else aim.scored(walk.roots()), strict=True):
        search.left = tree.simulations
        if not tree.rollouts:  # else it is worth what the first rollouts below it are worth
            search.finish(0, root, root.score)
    most = tree.simulations * (walk.limits.max_new_tokens if tree.commit == "token" else 1)
    for done in range(most):
        _simulate(searches, walk)
        progress(done + 1, most)
        if all(search.done for search in searches):
            break
    found = [search.candidates() for search in searches]
    return [
        (branches, as_visited(search.nodes, tree.backup, branches, judged=aim.value is not None))
        for search, branches in zip(searches, found, strict=True)
    ]


def _simulate(searches: Sequence[_Search], walk: Walk) -> None:
    """Run one simulation in every tree that is not done."""
    tree, aim = searches[0].tree, searches[0].aim
    complete: list[tuple[int, int]] = []
    leaves: list[tuple[int, int]] = []
    for prompt, search in enumerate(searches):
        if search.done:
            continue
        place = search.leaf()
        ends = search.nodes[place].ends
        if not walk.may_step(prompt, 0 if ends else 1):
            search.done = True
        else:
            (complete if ends else leaves).append((prompt, place))
    branches = _read(searches, leaves, walk)
    known = [searches[prompt].nodes[place].branch for prompt, place in complete]
    if not tree.rollouts:
        for (prompt, place), branch in zip([*complete, *leaves], aim.scored([*known, *branches]), strict=True):
            searches[prompt].finish(place, branch, branch.score)
            searches[prompt].count()
        return
    responses, owners = written(branches, walk, aim.sampling, aim.added, [one.dice for one in searches], tree.rollouts)
    scored = aim.scored([*known, *responses])
    for (prompt, place), branch in zip(complete, scored, strict=False):
        searches[prompt].finish(place, branch, branch.score)
        searches[prompt].count()
    scores: list[list[float]] = [[] for _ in leaves]
    for owner, branch in zip(owners, scored[len(known) :], strict=True):
        searches[branch.prompt].rolled.append(branch)
        if walk.over(branch):
            scores[owner].append(branch.score)
    for (prompt, place), branch, own in zip(leaves, branches, scores, strict=True):
        if own:
            searches[prompt].finish(place, branch, sum(own) / len(own))
            searches[prompt].count()
        searches[prompt].done |= walk.stopped[prompt] is not None


def _read(searches: Sequence[_Search], leaves: Sequence[tuple[int, int]], walk: Walk) -> list[Branch]:
    """Let the model read the last token of some nodes, give them children, and return them at their new rows."""
    if not leaves:
        return []
    nodes = [searches[prompt].nodes[place] for prompt, place in leaves]
    places = [node.place for node in nodes if node.place is not None]
    branches = walk.step_from(places, [node.branch for node in nodes])
    for node in nodes:
        node.place = None
    _expand(searches, leaves, branches, walk.frontier)
    return branches


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
    children = iter(grown(parents, [token for own in possible for token in own], frontier, aim.added(frontier)))
    for (number, place), branch, own in zip(leaves, branches, possible, strict=True):
        searches[number].expand(place, frontier.state, branch, [next(children) for _ in own])
