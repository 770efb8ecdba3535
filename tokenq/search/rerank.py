"""The best of several responses: by likelihood or reward, summed or per token, by a function, or by a vote."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp
from typing import NamedTuple

from tokenq.errors import unknown_name
from tokenq.search.branches import Branch
from tokenq.search.guidance import Value, implicit_reward


class Ranking(NamedTuple):
    """A row of the table.

    Attributes:
        score: (branch, β) → its score.
        reference: whether branches must hold the reference's log-probs.
    """

    score: Callable[[Branch, float], float]
    reference: bool


def _a_token(score: float, branch: Branch) -> float:
    return score / max(1, len(branch.tokens))


RANKINGS: dict[str, Ranking] = {
    "likelihood": Ranking(lambda branch, beta: sum(branch.logps), reference=False),
    "mean_likelihood": Ranking(lambda branch, beta: _a_token(sum(branch.logps), branch), reference=False),
    "reward": Ranking(lambda branch, beta: implicit_reward(beta)([branch])[0], reference=True),
    "mean_reward": Ranking(lambda branch, beta: _a_token(implicit_reward(beta)([branch])[0], branch), reference=True),
}
"""log π(y|x); log π(y|x) / |y|; Σ β log π/π_ref, the implicit reward of the response; Σ β log π/π_ref / |y|, which is
without what length alone brings. A reference is needed for the last two."""


def find_ranking(name: str, beta: float) -> Value:
    """Return the value of complete responses that is asked for by `name`.

    Raises:
        UserError: an unknown ranking.
    """
    if name not in RANKINGS:
        raise unknown_name("ranking", name, RANKINGS)
    score = RANKINGS[name].score
    return lambda branches: [score(branch, beta) for branch in branches]


def best_of(branches: Sequence[Branch], scores: Sequence[float]) -> list[Branch]:
    """Return the responses by score, best first, each with its score; equals stay in their order."""
    scored = [replace(branch, score=score) for branch, score in zip(branches, scores, strict=True)]
    return sorted(scored, key=lambda branch: -branch.score)


def vote(
    branches: Sequence[Branch], answers: Sequence[str | None], weights: Sequence[float] | None = None
) -> list[Branch]:
    """Return the responses, those with the answer of the largest weight first; the score is the share of that weight.

    Among responses of one answer the heavier comes first; responses without an answer come last, with score 0.

    Args:
        branches: responses to one prompt.
        answers: what each answers, None where it has no answer.
        weights: what each vote counts, 0 or more; all alike when None, the majority vote.
    """
    weights = [1.0] * len(branches) if weights is None else [max(0.0, weight) for weight in weights]
    totals: dict[str, float] = defaultdict(float)
    for said, own in zip(answers, weights, strict=True):
        if said is not None:
            totals[said] += own
    everything = sum(totals.values()) or 1.0
    shares = [0.0 if said is None else totals[said] / everything for said in answers]
    order = sorted(range(len(branches)), key=lambda i: (-shares[i], -weights[i], i))
    return [replace(branches[i], score=shares[i]) for i in order]


def tilt(scores: Sequence[float]) -> list[float]:
    """Return votes exp(score − largest score): samples of π reweighted towards π · exp(score)."""
    top = max(scores, default=0.0)
    return [exp(score - top) for score in scores]
