"""The account of a data set: numbers by hand, and the line that says them."""

import json
from collections import Counter

import numpy as np

from tokenq.data.summary import TokenCounts, summarise
from tokenq.records.examples import TokenGroup, TokenResponse


def group(prompt, *responses):
    made = tuple(TokenResponse(np.zeros(n, np.int32), np.ones(n, np.bool_), True) for n in responses)
    return TokenGroup(np.zeros(prompt, np.int32), made, len(made) == 2, "")


def test_percentiles_are_lengths_that_occur():
    """Of 1..10, half do not exceed 5, nine in ten do not exceed 9, and 99 % need the last."""
    assert TokenCounts.of([10, *range(1, 10)]) == TokenCounts(total=55, p50=5, p90=9, p99=10, max=10)
    assert TokenCounts.of([3]) == TokenCounts(3, 3, 3, 3, 3)


def test_the_line_of_pairs():
    dropped = {"tied ratings": 1, "chosen equals rejected": 3}
    summary = summarise([group(4, 2, 3), group(2000, 5, 1)], 1006, dropped, Counter(boundary_merges=2, eos_added=4))
    assert summary.line() == (
        "1,006 rows: 2 pairs; dropped 4 (3 chosen equals rejected, 1 tied ratings); "
        "0 prompts cut, 0 responses cut, 2 boundary merges, 4 EOS added; "
        "2,015 tokens (50 %/90 %/99 %/longest: prompt 4/2,000/2,000/2,000, chosen 2/5/5/5, rejected 1/3/3/3)"
    )


def test_the_line_of_single_responses():
    summary = summarise([group(4, 2), group(3, 1)], 2, {}, Counter(truncated_responses=1, bos_removed=2))
    assert summary.line() == (
        "2 rows: 2 responses; dropped 0; 0 prompts cut, 1 responses cut, 0 boundary merges, 2 BOS removed; "
        "10 tokens (50 %/90 %/99 %/longest: prompt 3/4/4/4, response 1/2/2/2)"
    )
    mixed = summarise([group(4, 2), group(3, 1, 1), group(1, 1, 1, 1)], 3, {}, Counter())
    assert mixed.line().startswith("3 rows: 6 responses (1 pairs); ")


def test_the_account_is_json():
    summary = summarise([group(4, 2, 3)], 1, {"x": 0}, Counter())
    found = json.loads(json.dumps(summary.to_dict()))
    assert found["tokens"]["chosen"] == {"total": 2, "p50": 2, "p90": 2, "p99": 2, "max": 2}
    assert (found["pairs"], found["responses"], found["dropped"]) == (1, 2, {})
