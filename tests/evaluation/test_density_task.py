"""Rewards on chains of one length: accuracies, slope, peaks and the credit of what is added, with numbers by hand."""

import re
from dataclasses import replace

import numpy as np
import pytest
from evaluation.scored_traces import make_trace

from tokenq.errors import UserError
from tokenq.evaluation.density.answers import density_of_answers
from tokenq.evaluation.density.chains import chains_of_examples, chains_of_traces, pairs_of
from tokenq.evaluation.density.task import density
from tokenq.records.examples import Example, Response
from tokenq.records.results import Candidate, Cost, SearchResult
from tokenq.stats.bootstrap import Resampling

FEW = Resampling(resamples=50)
NOTHING = Cost(0, 0, 0, 0.0, 0)
TEXTS = ("it is so", "it is Lyon", "Ann is Lyon")
"""Three tokens each: densities 0, 1/3, 2/3."""


def capitals(text):
    return [match.span() for match in re.finditer(r"[A-Z][a-z]+", text)]


def traced(name, rewards, texts=TEXTS):
    """Return traces of a chain with these implicit rewards; each credits its capitals most."""
    found = []
    for step, (text, reward) in enumerate(zip(texts, rewards, strict=True), 1):
        pieces = re.findall(r" ?\w+", text)
        logits = np.zeros((2, len(pieces), 5))
        logits[0, :, 0] = [3.0 if piece.strip()[0].isupper() else 0.0 for piece in pieces]
        trace = make_trace(f"{name}/{step - 1}", pieces, logits=tuple(logits))
        totals = replace(trace.totals, implicit_reward=reward, logp=-reward, ref_logp=float(-step), tokens=len(pieces))
        found.append(replace(trace, score=float(step), totals=totals, policy={"weights": "p"}))
    return found


def test_accuracies_slope_and_credit():
    """Chain a rises by 1 a step, chain b goes 0, 2, 1: of its three pairs one is wrong."""
    chains = chains_of_traces([*traced("a", (1.0, 2.0, 3.0)), *traced("b", (0.0, 2.0, 1.0))], capitals)
    found = density(chains, capitals, "capitals", 0.05, FEW).numbers
    assert found["all"]["implicit reward"].value == pytest.approx(5 / 6)
    assert found["adjacent"]["implicit reward"].value == pytest.approx(3 / 4)
    assert found["all"]["length"].value == 0.5
    assert found["all"]["reference likelihood"].value == 0.0
    assert found["all"]["likelihood"].value == pytest.approx(1 / 6)
    # Within chains density is −1/3, 0, 1/3: Σ dx dy is 2/3 and 1/3, Σ dx² 2/9 each.
    assert found["dose"]["slope"].value == pytest.approx((2 / 3 + 1 / 3) / (4 / 9))
    assert [one.value for one in found["dose"]["reward"]] == pytest.approx([-1.0, 0.5, 0.5])
    assert found["dose"]["peaks"] == [0, 1, 1]
    # Step 2 adds Lyon, above both others; step 3 adds Ann, above one and level with Lyon: (1 + 3/4) / 2.
    assert found["credit"]["implicit reward"].value == 0.875
    assert found["credit"]["policy surprisal"].value == 0.125
    assert [found["by_step"][str(step)]["density"].value for step in (1, 2, 3)] == pytest.approx([0, 1 / 3, 2 / 3])


def test_pairs_of_other_lengths_are_counted_and_left_out():
    (chain,) = chains_of_traces(traced("a", (0.0, 1.0), ("it is so", "it is in Lyon")), capitals)
    assert pairs_of([chain], 0.05, adjacent=False) == ([], 1)
    assert pairs_of([chain], 0.34, adjacent=False) == ([(0, 0, 1)], 0)
    numbers = density([chain], capitals, "capitals", 0.05, FEW).numbers
    assert numbers["all"]["lengths that differ"] == 1
    assert numbers["all"]["length"] is None


def test_chains_that_nobody_has_read():
    examples = [Example("p", tuple(Response(text, score=float(n)) for n, text in enumerate(TEXTS)), False, "row 1")]
    outcome = density(chains_of_examples(examples, capitals), capitals, "capitals", 0.05, FEW)
    assert [table.title for table in outcome.tables] == ["density by step"]
    assert [row[-1] for row in outcome.tables[0].rows] == [0.089, 0.129, 0.148]


def test_what_is_no_chain():
    with pytest.raises(UserError, match="row 1 is no chain"):
        chains_of_examples([Example("p", (Response("a", score=1.0),), False, "row 1")], capitals)
    with pytest.raises(UserError, match="is no chain"):
        chains_of_traces([replace(one, score=None) for one in traced("a", (0.0, 1.0, 2.0))], capitals)
    with pytest.raises(UserError, match="There are no chains"):
        density([], capitals, "capitals", 0.05, FEW)


def test_density_of_answers():
    """One of three tokens against none of three: 1/3 more."""

    def results(*texts):
        return [
            SearchResult(str(n), "p", "greedy", "likelihood", (Candidate(text, (), 0.0, (), None, True),), NOTHING)
            for n, text in enumerate(texts)
        ]

    table, numbers = density_of_answers(
        {"ours": results("it is Lyon", "Ann is in"), "theirs": results("it is so", "no one is")}, capitals, "x", FEW
    )
    assert numbers["ours"]["density"].value == pytest.approx(1 / 3)
    assert numbers["ours"]["less theirs"].value == pytest.approx(1 / 3)
    assert numbers["theirs"]["less theirs"] is None
    assert table.rows[0][0] == "ours"
