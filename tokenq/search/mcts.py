"""Monte-Carlo tree search over tokens, with the policy as prior (PUCT); the whole tree is returned.

A simulation walks from the root along the children with the best bound, expands where it ends (all children at once,
one step of the stepper), values the new leaves and carries the values back. What is fully known is not visited again,
so with enough simulations the best response of the tree is the exact one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Literal

from tokenq.core.tensors import Frontier, Stepper
from tokenq.errors import UserError
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.guidance import OBJECTIVES, Objective

Value = Callable[[Branch, Frontier], float]
"""(branch, frontier in which it stands) → estimate of the objective of its best completion."""


@dataclass(frozen=True)
class Tree:
    """How the tree is searched.

    Attributes:
        simulations: expansions for each prompt.
        children: most likely tokens that a node is expanded into; 0 for all.
        exploration: c of PUCT: Q + c P √N / (1 + n), with Q rescaled to [0, 1] over the tree.
        backup: "mean" of what was found below a node, or "max".
    """

    simulations: int = 64
    children: int = 8
    exploration: float = 1.25
    backup: Literal["mean", "max"] = "max"

    def __post_init__(self) -> None:
        """Refuse a search that does nothing."""
        if self.simulations < 1 or self.children < 0:
            raise UserError("simulations must be 1 or more, children 0 or more.", "0 children takes all tokens.")


@dataclass
class Node:
    """A prefix in the tree.

    Attributes:
        branch: the prefix, with its score so far.
        parent: index of the node before it, −1 for the root.
        prior: π(token) at its parent.
        ends: whether it is a complete response.
        value: estimate when it was made.
        visits: simulations that came through.
        total: sum of the values carried back.
        best: largest of them.
        solved: whether everything below it is known.
        children: indices of its children; empty until it is expanded.
    """

    branch: Branch
    parent: int
    prior: float
    ends: bool
    value: float
    visits: int = 0
    total: float = 0.0
    best: float = float("-inf")
    solved: bool = False
    children: list[int] = field(default_factory=list)


@dataclass
class _Search:
    """The tree of one prompt."""

    walk: Walk
    limits: Limits
    tree: Tree
    objective: Objective
    beta: float
    value: Value
    nodes: list[Node] = field(default_factory=list)
    places: dict[int, Frontier] = field(default_factory=dict)

    def simulate(self) -> bool:
        """Run one simulation; return False when there is nothing left to find, or to spend."""
        place = 0
        while self.nodes[place].children:
            place = self._choose(place)
        if self.nodes[place].ends or not self._expand(place):
            return False
        return not self.nodes[0].solved

    def _choose(self, place: int) -> int:
        """Return the child of a node with the best bound, among those that are not fully known."""
        node = self.nodes[place]
        open_ones = [child for child in node.children if not self.nodes[child].solved]
        values = [self._q(child) for child in range(1, len(self.nodes))]
        low, high = min(values), max(values)
        scale = high - low if high > low else 1.0

        def bound(child: int) -> float:
            one = self.nodes[child]
            explored: float = self.tree.exploration * one.prior * node.visits**0.5 / (1 + one.visits)
            return (self._q(child) - low) / scale + explored

        return max(open_ones, key=bound)

    def _q(self, place: int) -> float:
        node = self.nodes[place]
        if not node.visits:
            return node.value
        return node.best if self.tree.backup == "max" else node.total / node.visits

    def _expand(self, place: int) -> bool:
        """Give a node its children, value them, and carry the values back."""
        node, frontier = self.nodes[place], self.places[place]
        logps = frontier.logps[node.branch.row]
        added = self.objective.score(frontier, self.beta)[node.branch.row]
        possible = int(logps.isfinite().sum())
        count = possible if self.tree.children == 0 else min(self.tree.children, possible)
        chosen, tokens = (values.tolist() for values in logps.topk(count))
        length = len(node.branch.tokens) + 1
        grown = [node.branch.with_token(token, frontier, node.branch.score + float(added[token])) for token in tokens]
        ends = [self.limits.ends(token, length) for token in tokens]
        going = [branch for branch, over in zip(grown, ends, strict=True) if not over]
        if going and not self.walk.may_step(len(going)):
            return False
        stepped = iter(self._step(frontier, going))
        for branch, over, logp in zip(grown, ends, chosen, strict=True):
            after = branch if over else next(stepped)
            number = len(self.nodes)
            value = after.score if over else self.value(after, self.walk.frontier)
            self.nodes.append(Node(after, place, exp(logp), over, value, solved=over))
            node.children.append(number)
            if not over:
                self.places[number] = self.walk.frontier
            self._carry_back(number, value)
        del self.places[place]
        self._settle(place)
        return True

    def _step(self, frontier: Frontier, branches: list[Branch]) -> list[Branch]:
        if not branches:
            return []
        self.walk.frontier = frontier
        return self.walk.step(branches)

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


def so_far(branch: Branch, frontier: Frontier) -> float:
    """Return the score so far: with a reward at the end, Σ β log π/π_ref is a value already (arXiv 2412.01981)."""
    return branch.score


def mcts(
    stepper: Stepper,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    tree: Tree | None = None,
    objective: Objective = OBJECTIVES["reward"],
    beta: float = 1.0,
    value: Value = so_far,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[tuple[list[Branch], list[Node]]]:
    """Return for every prompt the complete responses of its tree, best first, and the tree.

    Where no response is complete, the best prefix is returned as it stands (not terminal).

    Args:
        stepper: what is searched.
        prompts: token ids of every prompt, searched one after the other.
        limits: where responses end, and what may be spent on each prompt.
        tree: how the tree is searched.
        objective: what is maximised.
        beta: KL temperature, for objectives that have one.
        value: estimates what a leaf will come to.
        progress: told (simulations done, simulations in all).

    Raises:
        UserError: a budget smaller than one step, or an objective without what it needs.
    """
    tree = tree or Tree()
    results = []
    for number, prompt in enumerate(prompts):
        walk = Walk(stepper, [prompt], limits)
        search = _Search(walk, limits, tree, objective, beta, value)
        search.nodes.append(Node(Branch(), -1, 1.0, False, 0.0))
        search.places[0] = walk.frontier
        for done in range(tree.simulations):
            progress(number * tree.simulations + done, len(prompts) * tree.simulations)
            if not search.simulate():
                break
        complete = [node.branch for node in search.nodes if node.ends]
        if not complete:
            complete = [max(search.nodes, key=lambda node: (node.best, len(node.branch.tokens))).branch]
        results.append((sorted(complete, key=lambda branch: -branch.score), search.nodes))
    return results
