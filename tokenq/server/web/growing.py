"""A search as it runs: somebody beside its stepper sees every token that is looked at, and the tree that they make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor

from tokenq.core.tensors import Frontier, Stepper
from tokenq.records.results import SearchTree

Text = Callable[[int, int], str]
"""(token before, −1 for none, token) → the text that the second adds behind the first."""


@dataclass
class GrowingTree:
    """The tokens that a search has looked at so far, behind one prompt; written on one thread, read on any.

    Attributes:
        parents: node before each; −1 for the prompt, which is node 0.
        tokens: the token; −1 for the prompt.
        logps: log π of it, where the search is still there; NaN elsewhere.
    """

    parents: list[int] = field(default_factory=lambda: [-1])
    tokens: list[int] = field(default_factory=lambda: [-1])
    logps: list[float] = field(default_factory=lambda: [0.0])

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.parents)  # a node's parent is written last

    def add(self, parent: int, token: int, logp: float) -> int:
        """Add a token behind a node, and return its own."""
        self.tokens.append(token)
        self.logps.append(logp)
        self.parents.append(parent)
        return len(self.parents) - 1

    def at_rest(self, text: Text) -> SearchTree:
        """Return the tree as it is now, as results have it: nothing is known yet of scores and ends."""
        size = len(self)
        parents, tokens = self.parents[:size], self.tokens[:size]
        texts = ["", *(text(tokens[parent], token) for parent, token in zip(parents[1:], tokens[1:], strict=True))]
        unknown = (nan,) * size
        ends = (False,) * size
        return SearchTree(tuple(parents), tuple(tokens), tuple(texts), tuple(self.logps[:size]), unknown, ends)


class _Stand(NamedTuple):
    """Where a watched stepper stands: the state of the one inside, and the node of each branch."""

    inner: Any
    nodes: Sequence[int]


class WatchedStepper:
    """A stepper of one prompt that notes what it is asked.

    Args:
        inner: the stepper.
        tree: takes the notes.
    """

    def __init__(self, inner: Stepper, tree: GrowingTree) -> None:
        self._inner, self._tree = inner, tree
        self._last: tuple[Any, Tensor] | None = None  # no more than one table of the vocabulary is kept from going

    def start(self, prompts: Sequence[Sequence[int]]) -> Frontier:
        """Return a frontier of one branch for each prompt."""
        return self._told(self._inner.start(prompts), [0] * len(prompts))

    def step(self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]) -> Frontier:
        """Return the frontier of M branches, and note their tokens."""
        rows, own = parents.tolist(), tokens.tolist()
        logps = [nan] * len(own)
        if self._last is not None and self._last[0] is state:
            logps = self._last[1][parents, tokens].tolist()
        nodes = [
            self._tree.add(state.nodes[row], token, logp) for row, token, logp in zip(rows, own, logps, strict=True)
        ]
        return self._told(self._inner.step(state.inner, parents, tokens), nodes)

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return a state whose branch m is branch `row` of an earlier state, for the m-th (state, row)."""
        inner = self._inner.gather([(state.inner, row) for state, row in places])
        return _Stand(inner, [state.nodes[row] for state, row in places])

    def _told(self, frontier: Frontier, nodes: Sequence[int]) -> Frontier:
        stand = _Stand(frontier.state, nodes)
        self._last = stand, frontier.logps
        return Frontier(frontier.logps, frontier.ref_logps, stand)
