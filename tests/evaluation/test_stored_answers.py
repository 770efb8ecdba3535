"""Evaluations of stored answers, by hand and against every choice counted out."""

from itertools import combinations

import numpy as np
import pytest

from tokenq.errors import UserError
from tokenq.evaluation.task_best_of_n import best_of_n, expected_best, pass_at
from tokenq.evaluation.task_generation import frontier, generation
from tokenq.records.results import Candidate, Cost, SearchResult


def candidate(answer, logp=-1.0, ref_logp=-1.0, length=2, terminal=True):
    return Candidate(str(answer), tuple(range(length)), 0.0, (logp,) * length, (ref_logp,) * length, terminal, answer)


def result(name, candidates, method="sample"):
    return SearchResult(name, "?", method, "likelihood", tuple(candidates), Cost(10, 4, 0, 1.0, 1))


def right(result, candidate):
    return float(candidate.answer == "yes")


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_pass_and_best_of_n_are_means_over_every_choice(seed, n):
    rng = np.random.default_rng(seed)
    hits = rng.integers(0, 2, 6).astype(float)
    scores = rng.normal(size=6)
    choices = [list(choice) for choice in combinations(range(6), n)]
    assert pass_at(hits, n) == pytest.approx(np.mean([hits[choice].max() for choice in choices]))
    best = [hits[max(choice, key=lambda place: scores[place])] for choice in choices]
    assert expected_best(hits, scores, n) == pytest.approx(np.mean(best))


def test_equal_scores_share():
    """One of two equals is right: ½, whichever comes first."""
    assert expected_best(np.array([1.0, 0.0]), np.array([3.0, 3.0]), 2) == pytest.approx(0.5)
    assert expected_best(np.array([0.0, 1.0]), np.array([3.0, 3.0]), 2) == pytest.approx(0.5)


def test_accuracy_against_n_by_hand():
    """Two prompts of 4 samples: the first has 3 × yes, the second one yes, which alone has a high reward."""
    results = [
        result("a", [candidate("yes"), candidate("no"), candidate("yes"), candidate("yes")]),
        result("b", [candidate("no"), candidate("yes", -1.0, -9.0), candidate("no"), candidate(None)]),
    ]
    found = best_of_n(results, right).numbers["accuracy"]
    assert found["one sample"][4].value == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert found["pass@n"][4].value == 1.0
    assert found["pass@n"][1].value == pytest.approx(0.5)
    assert found["majority"][4].value == pytest.approx(0.5)  # yes, and no by 2 to 1
    assert found["best by reward"][4].value == pytest.approx((3 / 4 + 1) / 2)
    assert found["vote by reward"][4].value == pytest.approx((1 + 1) / 2)  # yes weighs 1, no 2 e^−1.6 = 0.4
    assert found["majority"][1].value == pytest.approx(0.5, abs=0.15)
    assert list(found["pass@n"]) == [1, 2, 4]


def test_without_a_reference_there_are_no_rewards():
    bare = Candidate("x", (1,), 0.0, (-1.0,), None, True, "yes")
    names = best_of_n([result("a", [bare, bare])], right).numbers["accuracy"]
    assert set(names) == {"one sample", "best by mean_likelihood", "pass@n", "majority", "vote by mean_likelihood"}
    with pytest.raises(UserError, match="without samples"):
        best_of_n([result("a", [])], right)


def test_systems_are_compared_on_the_same_prompts():
    greedy = [result("a", [candidate("yes", length=3)], "greedy"), result("b", [candidate("no")], "greedy")]
    beams = [result("a", [candidate("yes")], "beam"), result("b", [candidate("yes", terminal=False)], "beam")]
    numbers = generation({"greedy": greedy, "beams": beams}, right).numbers
    assert numbers["greedy"]["quality"].value == 0.5
    assert numbers["beams"]["gain"].value == 0.5
    assert (numbers["greedy"]["length"], numbers["beams"]["terminal"]) == (2.5, 0.5)
    with pytest.raises(UserError, match="different prompts"):
        generation({"greedy": greedy, "other": beams[:1]}, right)


def test_quality_against_kl_by_hand():
    """Log-ratios of two tokens: 2 · 0.5 and 2 · 1.5 for one prompt, 0 for the other: KL (2 + 0) / 2 = 1."""
    moved = [
        result("a", [candidate("yes", -1.0, -1.5), candidate("no", -1.0, -2.5)]),
        result("b", [candidate("yes"), candidate("yes")]),
    ]
    still = [result("a", [candidate("no")]), result("b", [candidate("no")])]
    numbers = frontier({"trained": moved, "start": still}, right).numbers
    assert (numbers["trained"]["kl"].value, numbers["start"]["kl"].value) == (1.0, 0.0)
    assert (numbers["trained"]["quality"].value, numbers["start"]["quality"].value) == (0.75, 0.0)
    bare = Candidate("x", (1,), 0.0, (-1.0,), None, True, None)
    with pytest.raises(UserError, match="no log-probs of the reference"):
        frontier({"bare": [result("a", [bare])]}, right)
