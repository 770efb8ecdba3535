"""A search tree, and the rules by which a simulation chooses its way down: PUCT and Gumbel.

Values have no natural range (they are nats), so both rules see them rescaled to [0, 1] among a node and its children,
and children that nobody has visited are completed with what is known of their siblings (arXiv 2111.03604, 2007.11621).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

from tokenq.search.branches import Branch, Visited
from tokenq.search.sampling import Dice
from tokenq.search.settings import Tree


@dataclass
class Node:
    """A prefix in the tree.

    Attributes:
        branch: the prefix, with its score so far.
        parent: index of the node before it, −1 for the root.
        prior: log π(token) at its parent.
        ends: whether it is a complete response.
        guess: its value before anybody has visited it, None where there is none.
        value: what the first simulation that came through carried back.
        visits: simulations that came through.
        total: sum of the values carried back.
        best: largest of them.
        solved: whether everything below it is known.
        children: indices of its children; empty until it is expanded.
        place: (state, row) from which its own token is stepped.
    """

    branch: Branch
    parent: int
    prior: float
    ends: bool
    guess: float | None = None
    value: float = 0.0
    visits: int = 0
    total: float = 0.0
    best: float = float("-inf")
    solved: bool = False
    children: list[int] = field(default_factory=list)
    place: tuple[Any, int] | None = None

    def q(self, backup: str) -> float:
        """Return the value of a visited node; that of its best leaf once it is fully known."""
        return self.best if backup == "max" or self.solved else self.total / self.visits


SAME = 1e-5
"""Relative difference up to which values are the same: what float32 leaves of sums, which rescaling would blow up."""


def completed(parent: Node, children: Sequence[Node], backup: str) -> list[float]:
    """Return Q of every child, rescaled to [0, 1] among them and their parent.

    Where they differ by rounding alone all are 0.

    A child that nobody has visited has its guess, else the mixed value of its parent: (v + N · Σ P Q / Σ P) / (1 + N),
    the sums over visited children and N their visits (arXiv 2111.03604, appendix D).
    """
    seen = [child for child in children if child.visits]
    visits = sum(child.visits for child in seen)
    mixed = parent.value
    if seen:
        weights = [exp(child.prior) for child in seen]
        known = sum(weight * child.q(backup) for weight, child in zip(weights, seen, strict=True))
        mixed = (parent.value + visits * known / max(sum(weights), 1e-30)) / (1 + visits)
    values = [child.q(backup) if child.visits else mixed if child.guess is None else child.guess for child in children]
    low, high = min(*values, parent.value), max(*values, parent.value)
    if high - low <= SAME * max(1.0, abs(high), abs(low)):
        return [0.0 for _ in values]
    return [(value - low) / (high - low) for value in values]


def puct(parent: Node, children: Sequence[Node], tree: Tree) -> list[float]:
    """Return Q + c P √N / (1 + n) of every child."""
    values = completed(parent, children, tree.backup)
    root = max(1, parent.visits) ** 0.5
    return [
        value + tree.exploration * exp(child.prior) * root / (1 + child.visits)
        for value, child in zip(values, children, strict=True)
    ]


def improved(parent: Node, children: Sequence[Node], tree: Tree) -> list[float]:
    """Return log P + σ(Q) of every child, σ(q) = 0.1 (50 + largest visits) q: the logits of the improved policy."""
    values = completed(parent, children, tree.backup)
    scale = 0.1 * (50 + max(child.visits for child in children))
    return [child.prior + scale * value for value, child in zip(values, children, strict=True)]


def towards_improved(parent: Node, children: Sequence[Node], tree: Tree) -> list[float]:
    """Return π'(child) − n / (1 + N): visits follow the improved policy without a die (Gumbel, below the root)."""
    logits = improved(parent, children, tree)
    top = max(logits)
    chances = [exp(logit - top) for logit in logits]
    visits = 1 + sum(child.visits for child in children)
    return [chance / sum(chances) - child.visits / visits for chance, child in zip(chances, children, strict=True)]


RULES: dict[str, Callable[[Node, Sequence[Node], Tree], list[float]]] = {"puct": puct, "gumbel": towards_improved}
"""Rules by name; "gumbel" has a rule of its own for the root, `Halving`."""


class Halving:
    """The root of Gumbel search: candidates are drawn without replacement, and half of them leave round by round.

    Args:
        logps: log P of every child.
        simulations: how many there will be.
        dice: of the Gumbel noise.
        considered: most children that are looked at.
    """

    def __init__(self, logps: Sequence[float], simulations: int, dice: Dice, considered: int = 16) -> None:
        uniform = dice.many(len(logps)).clamp(1e-12, 1 - 1e-12).tolist()
        self.noise = [-log(-log(number)) for number in uniform]
        ranked = sorted(range(len(logps)), key=lambda child: -(self.noise[child] + logps[child]))
        self.left = ranked[: min(considered, len(ranked), simulations)]
        self._rounds = max(1, (len(self.left) - 1).bit_length())
        self._simulations = simulations
        self._queue: list[int] = []

    def next(self, parent: Node, children: Sequence[Node], tree: Tree) -> int:
        """Return the child that is simulated next: each of those left equally often in a round."""
        self._queue = [child for child in self._queue if not children[child].solved]
        if not self._queue:
            self._queue = self._round(parent, children, tree)
        return self._queue.pop(0)

    def best(self, parent: Node, children: Sequence[Node], tree: Tree) -> int:
        """Return the child with the largest noise + log P + σ(Q) among those visited most."""
        most = max(children[child].visits for child in self.left)
        among = [child for child in self.left if children[child].visits == most]
        return self._ranked(among, parent, children, tree)[0]

    def _round(self, parent: Node, children: Sequence[Node], tree: Tree) -> list[int]:
        if any(child.visits for child in children):
            self.left = self._ranked(self.left, parent, children, tree)[: max(2, (len(self.left) + 1) // 2)]
        open_ones = [child for child in self.left if not children[child].solved]
        if not open_ones:  # all that was drawn is known: look at the rest, likeliest first
            rest = [child for child in range(len(children)) if not children[child].solved]
            return sorted(rest, key=lambda child: -children[child].prior)
        each = max(1, self._simulations // (self._rounds * len(open_ones)))
        return open_ones * each

    def _ranked(self, among: Sequence[int], parent: Node, children: Sequence[Node], tree: Tree) -> list[int]:
        logits = improved(parent, children, tree)
        return sorted(among, key=lambda child: -(self.noise[child] + logits[child]))


def as_visited(nodes: Sequence[Node], backup: str, candidates: Sequence[Branch], *, judged: bool) -> list[Visited]:
    """Return a tree as it is kept at rest.

    A node that nobody has visited is worth what is known of it, else as much as its parent.

    Args:
        nodes: a parent before its children.
        backup: what a node is worth: "mean" of what was found below it, or "max".
        candidates: what was found; a tree without a visit is worth the best of it.
        judged: whether scores are a judge's words, which do not add up: a node's is then what it was first worth.
    """
    rows: list[Visited] = []
    for node in nodes:
        branch = node.branch
        if node.visits:
            value = node.q(backup)
        elif node.guess is not None:
            value = node.guess
        else:
            value = rows[node.parent].value if rows else candidates[0].score if candidates else 0.0
        token, logp = (branch.tokens[-1], branch.logps[-1]) if branch.tokens else (-1, 0.0)
        own = (node.value if node.visits else value) if judged else branch.score
        rows.append(Visited(node.parent, token, logp, own, node.ends, node.visits, value))
    return rows
