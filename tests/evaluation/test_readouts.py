"""Every read-out against its definition over the whole vocabulary of a tiny world."""

from dataclasses import replace

import numpy as np
import pytest
from scored_traces import BETA, log_softmax, make_trace

from tokenq.errors import UserError
from tokenq.evaluation.readouts import READOUTS

PIECES = ["It", " is", " not", " here", ""]
TAKEN = [1, 4, 0, 2, 3]
WRITTEN = [True, True, False, True, True]


@pytest.fixture
def world():
    """Return log π and log π_ref, [5 tokens, 7 entries], and the trace that keeps 3 alternatives of each."""
    logits = tuple(np.random.default_rng(4).normal(scale=1.5, size=(2, 5, 7)))
    trace = make_trace("row 1", PIECES, taken=TAKEN, written=WRITTEN, logits=logits, kept=3)
    own = np.array(WRITTEN)
    return *(log_softmax(some)[own] for some in logits), trace


def of_taken(table):
    return table[np.arange(4), [1, 4, 2, 3]]


def test_read_outs_are_their_definitions(world):
    policy, reference, trace = world
    reward, p, q = BETA * (policy - reference), np.exp(policy), np.exp(reference)
    r, taken, ref_taken = map(of_taken, (reward, policy, reference))
    kept = [
        {*np.argsort(-a)[:3].tolist(), *np.argsort(-b)[:3].tolist()} for a, b in zip(policy, reference, strict=True)
    ]
    best = [max([x, *(row[v] for v in ids)]) for x, row, ids in zip(r, reward, kept, strict=True)]
    expected = {
        "implicit_reward": -r,
        "implicit_reward_minus_reference_mean": -(r - (q * reward).sum(1)),
        "implicit_reward_minus_policy_mean": -(r - (p * reward).sum(1)),
        "regret": np.array(best) - r,
        "centred_advantage": -(BETA * taken - (p * BETA * policy).sum(1)),
        "gap_to_best": policy.max(1) - taken,
        "both_surprisals": -(taken + ref_taken),
        "policy_surprisal": -taken,
        "reference_surprisal": -ref_taken,
        "centred_reference_surprisal": -(ref_taken - (q * reference).sum(1)),
        "entropy": -(p * policy).sum(1),
        "position": np.array([0.0, 1, 2, 3]),
    }
    assert {*READOUTS} == {*expected, "random"}
    for name, numbers in expected.items():
        np.testing.assert_allclose(READOUTS[name](trace), numbers, atol=1e-12, err_msg=name)


def test_means_that_are_taken_off_have_the_sign_of_a_divergence(world):
    """E_π[r] ≥ 0 ≥ E_ref[r], so a token looks worse beside the policy's mean than beside the reference's."""
    trace = world[2]
    plain = READOUTS["implicit_reward"](trace)
    assert (READOUTS["implicit_reward_minus_policy_mean"](trace) > plain).all()
    assert (READOUTS["implicit_reward_minus_reference_mean"](trace) < plain).all()


def test_regret_and_gap_are_zero_for_the_best_token():
    logits = (np.array([[3.0, 0, 0]]), np.array([[0.0, 1, 1]]))
    for kept in (1, 3):
        trace = make_trace("best", ["x"], logits=logits, kept=kept)
        assert READOUTS["regret"](trace).tolist() == [0.0]
        assert READOUTS["gap_to_best"](trace).tolist() == [0.0]
    # A token that neither model keeps, and that gained more than all that are kept.
    gained = make_trace("gain", ["x"], taken=[2], logits=(np.array([[5.0, 4, 0]]), np.array([[5.0, 4, -9]])), kept=1)
    assert READOUTS["regret"](gained).tolist() == [0.0]
    assert READOUTS["gap_to_best"](gained)[0] == pytest.approx(5)


def test_only_tokens_that_the_policy_wrote_are_read(world):
    trace = world[2]
    assert [token.text for token in trace.tokens if token.written] == ["It", " is", " here", ""]
    assert {len(readout(trace)) for readout in READOUTS.values()} == {4}


def test_random_depends_on_the_name_alone(world):
    trace = world[2]
    draws = READOUTS["random"](trace)
    np.testing.assert_array_equal(draws, READOUTS["random"](trace))
    assert not np.array_equal(draws, READOUTS["random"](replace(trace, id="row 2")))
    first, second = (
        READOUTS["random"](replace(trace, id=f"{folder}rows.jsonl, row 1")) for folder in ("/a/b/", "C:\\d\\")
    )
    np.testing.assert_array_equal(first, second)
    # The same on every machine: hash() would not be.
    np.testing.assert_allclose(draws, [0.57329724, 0.06932666, 0.64435972, 0.27520822], atol=1e-8)
    assert ((draws >= 0) & (draws < 1)).all()


@pytest.mark.parametrize(
    ("lost", "names"),
    [
        ("entropy", {"entropy", "centred_advantage"}),
        ("ref_entropy", {"centred_reference_surprisal"}),
        ("kl", {"implicit_reward_minus_policy_mean"}),
        ("ref_kl", {"implicit_reward_minus_reference_mean"}),
    ],
)
def test_a_number_that_is_not_there_is_named(world, lost, names):
    trace = world[2]
    tokens = (*trace.tokens[:3], replace(trace.tokens[3], **{lost: None}), trace.tokens[4])
    poor = replace(trace, tokens=tokens)
    for name, readout in READOUTS.items():
        if name not in names:
            assert len(readout(poor)) == 4
            continue
        with pytest.raises(UserError, match=f"Trace row 1: token 3 that the policy wrote has no '{lost}'"):
            readout(poor)


def test_without_alternatives_there_is_no_regret(world):
    trace = world[2]
    poor = replace(trace, tokens=tuple(replace(t, likely=(), ref_likely=(), favoured=()) for t in trace.tokens))
    for name in ("regret", "gap_to_best"):
        with pytest.raises(UserError, match="row 1 keeps no alternatives"):
            READOUTS[name](poor)
