"""The objectives of searches, as functions of both models' log-probs; things that are never confused.

Likelihood is the search of the paper: over a DPO policy it equals value-guided search for reward plus log π_ref
(Eq. 13 of arXiv 2404.12358). Reward is Σ β log π/π_ref, for candidates that come from elsewhere. A proxy changes the
distribution that is searched (`tokenq.search.proxy`). A value judges whole prefixes: a reward model, or any function.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import Frontier
from tokenq.errors import UserError, unknown_name
from tokenq.search.branches import Branch

Value = Callable[[Sequence[Branch]], Sequence[float]]
"""(branches, complete or not) → what each of them is worth; larger is better. They may belong to several prompts."""


class SearchObjective(NamedTuple):
    """A row of the table.

    Attributes:
        name: how it is asked for.
        score: (frontier, β) → [B, V] what each next token adds to the score of its branch.
        reference: whether the frontier must hold the reference's log-probs.
    """

    name: str
    score: Callable[[Frontier, float], Tensor]
    reference: bool


def likelihood(frontier: Frontier, beta: float) -> Float[Tensor, "B V"]:
    """Return log π of every token."""
    return frontier.logps


def reward(frontier: Frontier, beta: float) -> Float[Tensor, "B V"]:
    """Return β (log π − log π_ref) of every token.

    Raises:
        UserError: no reference runs.
    """
    if frontier.ref_logps is None:
        raise UserError("The objective 'reward' needs a reference.", "Name one with --reference.")
    return beta * (frontier.logps - frontier.ref_logps)


OBJECTIVES: dict[str, SearchObjective] = {
    "likelihood": SearchObjective("likelihood", likelihood, reference=False),
    "reward": SearchObjective("reward", reward, reference=True),
}


def find_objective(name: str) -> SearchObjective:
    """Return the row of `name`.

    Raises:
        UserError: an unknown objective.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def implicit_reward(beta: float) -> Value:
    """Return the value Σ β log π/π_ref of a prefix: V* there less V* of the prompt (arXiv 2412.01981).

    Raises:
        UserError: when it is asked about a branch that was written without a reference.
    """

    def value(branches: Sequence[Branch]) -> list[float]:
        for branch in branches:
            if len(branch.ref_logps) != len(branch.logps):
                raise UserError("The implicit reward needs a reference.", "Name one with --reference.")
        return [beta * (sum(branch.logps) - sum(branch.ref_logps)) for branch in branches]

    return value
