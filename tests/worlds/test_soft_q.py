"""Exact answers, against numbers worked out by hand."""

from dataclasses import replace
from math import exp, log

import pytest
import torch

from tokenq.worlds import draws
from tokenq.worlds.mdp import HANDOVER, build
from tokenq.worlds.soft_q import (
    behind,
    bradley_terry,
    evaluate,
    kl,
    plackett_luce,
    response_logps,
    returns,
    sample_pairs,
    shape,
    solve,
)


def hand_world():
    """Two tokens, two steps, β = 1, a uniform reference; exp(r) is 3 and 1, then 1 and 3.

    V*(s_2) = log(½·1 + ½·3) = log 2 and V*(s_1) = log(½·3 + ½·2) = log 2.5.
    """
    world = build(vocab_size=2, horizon=2)
    second = int(world.next_states[0, 1])
    rewards = world.rewards.clone()
    rewards[0, 0], rewards[second, 1] = log(3), log(3)
    return replace(world, rewards=rewards), second


def test_values_and_policy_by_hand():
    world, second = hand_world()
    optimum = solve(world)
    assert float(optimum.values[0]) == pytest.approx(log(2.5), abs=1e-15)
    assert float(optimum.values[second]) == pytest.approx(log(2), abs=1e-15)
    assert optimum.logps[0].exp().tolist() == pytest.approx([0.6, 0.4])
    assert optimum.logps[second].exp().tolist() == pytest.approx([0.25, 0.75])
    assert optimum.optimal_q_values[0].tolist() == pytest.approx([log(1.5), log(1.0)])


def test_the_temperature_by_hand():
    """At β = 2 exp(r/β) is √3 and 1: V*(s_2) = 2 log((1 + √3)/2)."""
    world, second = hand_world()
    optimum = solve(replace(world, beta=2.0))
    assert float(optimum.values[second]) == pytest.approx(2 * log((1 + 3**0.5) / 2), abs=1e-15)


def test_the_objective_of_a_policy_by_hand():
    """The reference pays no KL: ½ log 3 + ½ (½ log 3)."""
    world, _ = hand_world()
    assert float(evaluate(world, world.reference_logps)[0]) == pytest.approx(0.75 * log(3))


def test_an_answer_counts_in_expectation():
    """Behind an answer of probability ¼ lies a value of 4, behind the other 0: the value of the turn is 1, not soft."""
    world = build(vocab_size=3, horizon=3, environment=True)
    turn = int(world.next_states[0, HANDOVER])
    good = int(world.next_states[turn, 1])
    rewards, reference = world.rewards.clone(), world.reference_logps.clone()
    rewards[good] = 4.0
    reference[turn] = torch.tensor([-torch.inf, log(0.25), log(0.75)])
    optimum = solve(replace(world, rewards=rewards, reference_logps=reference))
    assert float(optimum.values[turn]) == pytest.approx(1.0)
    assert optimum.logps[turn].exp().tolist() == pytest.approx([0.0, 0.25, 0.75])
    assert float(optimum.values[0]) == pytest.approx(log((1 + exp(1) + 1) / 3))


def test_returns_and_chances_of_responses_by_hand():
    world, _ = hand_world()
    sequences = world.sequences()
    by_tokens = {
        tuple(t[v].tolist()): i for i, (t, v) in enumerate(zip(sequences.tokens, sequences.valid, strict=True))
    }
    order = [by_tokens[tokens] for tokens in ((0,), (1, 0), (1, 1))]
    assert returns(world, sequences)[order].tolist() == pytest.approx([log(3), 0.0, log(3)])
    assert response_logps(sequences, world.reference_logps)[order].exp().tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert response_logps(sequences, solve(world).logps)[order].exp().tolist() == pytest.approx([0.6, 0.1, 0.3])
    divergence = 0.5 * log(0.5 / 0.6) + 0.25 * log(0.25 / 0.1) + 0.25 * log(0.25 / 0.3)
    assert float(kl(sequences, world.reference_logps, solve(world).logps, 0)) == pytest.approx(divergence)


def test_what_lies_behind_a_state():
    """The chance to come through a state under the reference: 1 at the prompt, ½ after the first token."""
    world, second = hand_world()
    sequences = world.sequences()
    passing = behind(world, sequences, response_logps(sequences, world.reference_logps)).exp()
    assert passing[0] == pytest.approx(1.0)
    assert passing[second] == pytest.approx(0.5)


def test_shaping_by_hand():
    world, second = hand_world()
    shaped = shape(world, torch.tensor([1.0, 0.0, 10.0, 0.0, 0.0], dtype=torch.float64))
    assert second == 2
    assert shaped.rewards[0].tolist() == pytest.approx([log(3) - 1, 9.0])
    assert shaped.rewards[second].tolist() == pytest.approx([-10.0, log(3) - 10])


def test_preferences_by_hand():
    """Odds of 3 to 1; and a ranking of weights 4, 3, 1: 4/8 · 3/4."""
    assert bradley_terry(torch.tensor([log(3), 0.0]))[0].tolist() == pytest.approx([0.5, 0.75])
    assert float(plackett_luce(torch.tensor([log(4), log(3), 0.0]).double())) == pytest.approx(log(3 / 8))


def test_rankings_of_a_set_are_all_there_is():
    scores = torch.randn(4, dtype=torch.float64, generator=draws.generator(0))
    total = sum(
        plackett_luce(scores[list(p)]).exp()
        for p in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist()
        if len(set(p)) == 4
    )
    assert float(total) == pytest.approx(1.0)


def test_sampled_pairs_follow_the_exact_preferences():
    """Each of 2 · 15 · 14 ordered pairs comes as often as its exact share says, within 5 standard deviations."""
    world = draws.small(0)
    sequences, count = world.sequences(), 200_000
    pairs = sample_pairs(world, sequences, count, draws.generator(0))
    assert torch.equal(pairs, sample_pairs(world, sequences, count, draws.generator(0)))
    assert (sequences.prompts[pairs[:, 0]] == sequences.prompts[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    drawn, counts = pairs.unique(dim=0, return_counts=True)
    scores = returns(world, sequences)
    share = torch.sigmoid(scores[drawn[:, 0]] - scores[drawn[:, 1]]) / (2 * 15 * 14 / 2)
    sigma = (share * (1 - share) / count).sqrt()
    assert len(drawn) > 400
    assert ((counts / count - share).abs() < 5 * sigma).all()
