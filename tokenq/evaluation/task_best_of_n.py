"""Accuracy against n: what the best of n samples, a vote and an oracle make of stored samples.

The best of n and pass@n are exact expectations over all choices of n of the N samples, not one lucky order; votes are
means over seeded choices. Intervals are over prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from math import comb

import numpy as np

from tokenq.errors import UserError
from tokenq.records.results import Candidate, SearchResult
from tokenq.search.outcome import as_branches
from tokenq.search.rerank import find_ranking, tilt
from tokenq.stats.bootstrap import PLAIN, Estimate, Floats, Resampling, difference_interval, mean_interval
from tokenq.stats.outcome import Cell, Chart, Curve, ListedExample, Outcome, Table, worst_first

DRAWS = 64
"""Choices of n samples that a vote is averaged over."""

Correct = Callable[[SearchResult, Candidate], float]
"""(result, one of its candidates) → how right it is, between 0 and 1."""


def best_of_n(
    results: Sequence[SearchResult],
    correct: Correct,
    *,
    beta: float = 0.1,
    rankings: Sequence[str] = ("reward", "mean_reward", "mean_likelihood"),
    how: Resampling = PLAIN,
) -> Outcome:
    """Return accuracy against n.

    Args:
        results: samples of every prompt, all drawn alike.
        correct: how right a sample is.
        beta: KL temperature of rewards.
        rankings: keys of `RANKINGS`, for the best of n; those that need a reference are left out without one.
        how: resamples, confidence, seed.

    Raises:
        UserError: there are no samples.
    """
    most = min((len(one.candidates) for one in results), default=0)
    if most < 1:
        raise UserError(
            "There are prompts without samples, or no prompts.", "Draw them: tokenq search --method sample."
        )
    right = [np.array([correct(one, candidate) for candidate in one.candidates[:most]]) for one in results]
    sizes = [2**k for k in range(most.bit_length()) if 2**k <= most]
    with_reference = all(c.ref_logps is not None for one in results for c in one.candidates)
    rankings = [name for name in rankings if with_reference or "reward" not in name]
    scores = {name: [np.array(_scores(one.candidates[:most], name, beta)) for one in results] for name in rankings}
    table: dict[str, dict[int, Floats]] = {
        "one sample": {n: np.array([hits.mean() for hits in right]) for n in sizes},
        **{f"best by {name}": {n: _each(expected_best, right, own, n) for n in sizes} for name, own in scores.items()},
        "pass@n": {n: np.array([pass_at(hits, n) for hits in right]) for n in sizes},
    }
    if any(candidate.answer is not None for one in results for candidate in one.candidates):
        table["majority"] = {n: _votes(results, right, None, n, how.seed) for n in sizes}
        for name in rankings[:1]:
            table[f"vote by {name}"] = {n: _votes(results, right, scores[name], n, how.seed) for n in sizes}
    found = {name: {n: mean_interval(values, how=how) for n, values in rows.items()} for name, rows in table.items()}
    gains = {
        name: difference_interval(rows[sizes[-1]], table["one sample"][sizes[-1]], how=how)
        for name, rows in table.items()
    }
    head = ("", *(f"n = {n}" for n in sizes), f"− one sample, n = {sizes[-1]}")
    rows: list[list[Cell]] = [[name, *by_n.values(), gains[name]] for name, by_n in found.items()]
    note = f"{len(results)} prompts of {most} samples; pass@n and best of n exactly, votes over {DRAWS} choices"
    chart = Chart("accuracy against n", "samples", "accuracy", [_curve(name, row) for name, row in found.items()], True)
    examples = [
        ListedExample(one.id, one.id, {"share of right samples": float(hits.mean())})
        for one, hits in zip(results, right, strict=True)
    ]
    cost = {
        "policy_tokens": float(sum(one.cost.policy_tokens for one in results)),
        "reference_tokens": float(sum(one.cost.reference_tokens for one in results)),
    }
    numbers = {"accuracy": found, "gain": gains, "samples": most, "prompts": len(results)}
    ordered = worst_first(examples, "share of right samples")
    return Outcome("best-of-n", numbers, [Table("accuracy", head, rows, note)], [chart], ordered, cost)


def pass_at(right: Floats, n: int) -> float:
    """Return the unbiased chance that one of n samples is right: 1 − C(N − c, n) / C(N, n) (arXiv 2107.03374)."""
    wrong = int((right < 1).sum())
    return 1.0 - comb(wrong, n) / comb(len(right), n)


def expected_best(right: Floats, scores: Floats, n: int) -> float:
    """Return the expected correctness of the highest-scored of n samples, over all choices of n; ties share.

    With N samples in order of score, the i-th is the best of a choice with C(N − i, n − 1) / C(N, n).
    """
    order = np.argsort(-scores, kind="stable")
    values = right[order].astype(float)
    ordered = scores[order]
    for score in np.unique(ordered):
        values[ordered == score] = values[ordered == score].mean()
    total = comb(len(right), n)
    return float(sum(comb(len(right) - i, n - 1) * value for i, value in enumerate(values, 1)) / total)


def _each(
    function: Callable[[Floats, Floats, int], float], right: Sequence[Floats], scores: Sequence[Floats], n: int
) -> Floats:
    return np.array([function(hits, own, n) for hits, own in zip(right, scores, strict=True)])


def _scores(candidates: Sequence[Candidate], name: str, beta: float) -> list[float]:
    return list(find_ranking(name, beta)(as_branches(candidates)))


def _votes(
    results: Sequence[SearchResult], right: Sequence[Floats], scores: Sequence[Floats] | None, n: int, seed: int
) -> Floats:
    """Return [prompts] the correctness of a vote's winner, its mean over choices of n samples."""
    values = []
    for number, (one, hits) in enumerate(zip(results, right, strict=True)):
        rng = np.random.default_rng((seed, number, n))
        every = n == len(hits)
        won = []
        for _ in range(1 if every else DRAWS):
            chosen = np.arange(n) if every else rng.choice(len(hits), n, replace=False)
            weights = np.ones(n) if scores is None else np.array(tilt(scores[number][chosen].tolist()))
            won.append(_winner([one.candidates[i].answer for i in chosen], weights, hits[chosen]))
        values.append(float(np.mean(won)))
    return np.array(values)


def _winner(answers: Sequence[str | None], weights: Floats, right: Floats) -> float:
    """Return how right the answer with the largest weight is; equal weights share, no answer at all is wrong."""
    totals: dict[str, list[float]] = {}
    for answer, weight, hit in zip(answers, weights, right, strict=True):
        if answer is not None:
            totals.setdefault(answer, [0.0, float(hit)])[0] += float(weight)
    if not totals:
        return 0.0
    top = max(total for total, _ in totals.values())
    winners = [hit for total, hit in totals.values() if total >= top - 1e-12]
    return float(np.mean(winners))


def _curve(name: str, by_n: Mapping[int, Estimate]) -> Curve:
    return Curve(name, list(by_n), list(by_n.values()))
