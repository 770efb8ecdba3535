"""The best of several responses: by likelihood or reward, summed or per token, by a function, or by a vote."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenq.errors import UserError
from tokenq.search.branches import Branch


class Ranking(NamedTuple):
    """A row of the table.

    Attributes:
        score: (branch, β) → its score.
        reference: whether branches must hold the reference's log-probs.
    """

    score: Callable[[Branch, float], float]
    reference: bool


def likelihood(branch: Branch, beta: float) -> float:
    """Return log π(y|x)."""
    return sum(branch.logps)


def mean_likelihood(branch: Branch, beta: float) -> float:
    """Return log π(y|x) / |y|."""
    return sum(branch.logps) / max(1, len(branch.tokens))


def reward(branch: Branch, beta: float) -> float:
    """Return Σ β log π/π_ref, the implicit reward of the response.

    Raises:
        UserError: the branch was written without a reference.
    """
    if len(branch.ref_logps) != len(branch.logps):
        raise UserError("Ranking by reward needs a reference.", "Name one with --reference.")
    return beta * (sum(branch.logps) - sum(branch.ref_logps))


def mean_reward(branch: Branch, beta: float) -> float:
    """Return Σ β log π/π_ref / |y|: without what length alone brings."""
    return reward(branch, beta) / max(1, len(branch.tokens))


RANKINGS: dict[str, Ranking] = {
    "likelihood": Ranking(likelihood, reference=False),
    "mean_likelihood": Ranking(mean_likelihood, reference=False),
    "reward": Ranking(reward, reference=True),
    "mean_reward": Ranking(mean_reward, reference=True),
}


def best_of(branches: Sequence[Branch], score: Callable[[Branch], float]) -> list[Branch]:
    """Return the responses by score, best first, each with its score; equals stay in their order.

    Args:
        branches: responses to one prompt.
        score: larger is better.
    """
    scored = [replace(branch, score=score(branch)) for branch in branches]
    return sorted(scored, key=lambda branch: -branch.score)


def vote(
    branches: Sequence[Branch],
    answer: Callable[[Branch], str | None],
    weight: Callable[[Branch], float] = lambda _: 1.0,
) -> list[Branch]:
    """Return the responses, those with the answer of the largest weight first; the score is the share of that weight.

    Among responses of one answer the heavier comes first; responses without an answer come last, with score 0.

    Args:
        branches: responses to one prompt.
        answer: what a response answers, None where it has no answer.
        weight: what its vote counts, 0 or more; 1 is the majority vote.
    """
    answers, weights = [answer(branch) for branch in branches], [max(0.0, weight(branch)) for branch in branches]
    totals: dict[str, float] = defaultdict(float)
    for said, own in zip(answers, weights, strict=True):
        if said is not None:
            totals[said] += own
    everything = sum(totals.values()) or 1.0
    shares = [0.0 if said is None else totals[said] / everything for said in answers]
    order = sorted(range(len(branches)), key=lambda i: (-shares[i], -weights[i], i))
    return [replace(branches[i], score=shares[i]) for i in order]
