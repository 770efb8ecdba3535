"""What the studies of policy gradients are made of, against numbers by hand."""

from collections import deque
from dataclasses import replace

import pytest
import torch

from bench.dpo_and_ppo import Learnt, certain, outside, three_actions
from bench.policy_learners import RewardModel, by_bradley_terry, by_dpo, by_ppo, by_sft, optimum
from bench.policy_worlds import Forest, at_end, bigram_rows, draw_pairs, own_rows
from tokenq.worlds.draws import generator
from tokenq.worlds.mdp import build

THREE = 3.0**0.5


def forest(beta=1.0, n_prompts=1, horizon=1):
    """Responses 0, 1, 2 of one token, or more of two; a uniform reference."""
    tree = build(vocab_size=3, horizon=horizon, n_prompts=n_prompts, beta=beta)
    logits = torch.where(torch.isinf(tree.reference_logps), 0.0, tree.reference_logps)
    return Forest(tree, tree.sequences(), own_rows(tree), logits)


@pytest.mark.parametrize(("begun", "left"), [(0.9, 18.0), (0.01, 2 / 99)])
def test_dpo_keeps_the_action_outside_the_data_where_it_is(begun, left):
    """A 3:1 pair sets log π1/π2 = log 3 and leaves their mean logit and that of y3, e^l3 = 2 π3/(1 − π3), alone."""
    others = (1 - begun) / 2
    dpo, best, ppo = three_actions((others, others, begun), 5.0)
    assert float(dpo[2]) == pytest.approx(left / (THREE + 1 / THREE + left), abs=1e-9)
    assert float(dpo[0] / dpo[1]) == pytest.approx(3.0)
    assert best.tolist() == pytest.approx([0.75, 0.25, 0.0], abs=1e-9)
    assert ppo.tolist() == pytest.approx([0.75, 0.25, 0.0], abs=2e-4)  # π_ref(y3) = 1e-6, and e⁵ of it


def test_a_certain_pair_is_satisfied_by_mass_on_the_third_action():
    assert certain((0.1, 1e-6, 0.9 - 1e-6), 1.0) == pytest.approx(1e-5, rel=1e-4)  # log(1 + b/a)
    assert certain((0.1, 0.001, 0.899), 0.5) == pytest.approx(0.0953102)  # log(1 + √0.01)


def test_states_share_a_row_by_their_last_token_within_a_prompt():
    tree = build(vocab_size=3, horizon=3, n_prompts=2)
    rows = bigram_rows(tree)
    places = {text: int(rows[tree.walk(text)]) for text in ((3, 1), (3, 1, 1), (3, 2, 1), (3, 2), (4, 1), (3,))}
    assert places[3, 1] == places[3, 1, 1] == places[3, 2, 1]
    assert len({places[3, 1], places[3, 2], places[4, 1], places[3,]}) == 4


def test_pairs_are_of_two_responses_and_labelled_by_reward():
    rewards = torch.tensor([[0.0, 50.0, 100.0], [100.0, 50.0, 0.0]], dtype=torch.float64)
    pairs = draw_pairs(forest(n_prompts=2).reference, rewards, 200, generator(0))
    assert bool((rewards[0][pairs[0, :, 0]] > rewards[0][pairs[0, :, 1]]).all())
    assert bool((rewards[1][pairs[1, :, 0]] > rewards[1][pairs[1, :, 1]]).all())
    assert len(pairs[0].unique(dim=0)) == 3


def test_mass_outside_the_pairs_is_what_is_in_none():
    kind = forest(n_prompts=2)
    pairs = torch.tensor([[[0, 1], [1, 0]], [[2, 1], [1, 0]]])
    assert outside(kind, Learnt(kind.world.reference_logps, pairs)).tolist() == pytest.approx([1 / 3, 0.0])


def test_a_bigram_reward_is_the_sum_over_its_tokens():
    """Responses of two tokens: 0 is worth w(start, 0); 1 then 2 is w(start, 1) + w(1, 2), wherever 1 stands."""
    kind = forest(horizon=2)
    model = RewardModel(kind, bigram_rows(kind.world))
    model.weights.data = torch.arange(12, dtype=torch.float64).reshape(4, 3)  # rows: start, after 0, after 1, after 2
    found = dict(zip(map(tuple, kind.sequences.tokens.tolist()), model()[0].tolist(), strict=True))
    assert found[0, 0] == 0.0  # row 0, token 0; the second 0 is padding
    assert found[1, 2] == 1.0 + 8.0
    assert found[2, 1] == 2.0 + 10.0


def test_bradley_terry_and_dpo_come_to_the_same_policy_where_all_is_in_the_pairs():
    """0 beats 1 and 1 beats 2 two times in three, 0 beats 2 four times in five: rewards log 4, log 2 and 0."""
    kind = forest(beta=0.5)
    pairs = torch.tensor([[0, 1]] * 20 + [[1, 0]] * 10 + [[1, 2]] * 20 + [[2, 1]] * 10 + [[0, 2]] * 24 + [[2, 0]] * 6)
    model, policy = RewardModel(kind, None), kind.policy()
    deque(by_bradley_terry(model, kind, pairs[None], 400), 0)
    deque(by_dpo(policy, kind, pairs[None], 400, 0.5, kind.world.reference_logps), 0)
    rewards = model().detach()
    assert (rewards - rewards[:, 2:])[0].tolist() == pytest.approx([1.386294, 0.693147, 0.0], abs=1e-4)
    by_hand = pytest.approx([16 / 21, 4 / 21, 1 / 21], abs=1e-4)  # e^(2 r): 16, 4, 1
    assert optimum(kind, rewards, 0.5)[0].exp().tolist() == by_hand
    assert policy.table()[0].exp().tolist() == by_hand


def test_ppo_by_samples_comes_to_the_optimum():
    kind = forest()
    policy, rewards = kind.policy(), torch.tensor([[0.0, 0.693147, 1.386294]], dtype=torch.float64)  # e^r: 1, 2, 4
    deque(by_ppo(policy, kind, rewards, 300, 1.0), 0)
    assert policy.table()[0].exp().tolist() == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.05)


def test_sft_comes_to_the_shares_of_the_chosen():
    kind = forest()
    policy = kind.policy()
    deque(by_sft(policy, kind, torch.tensor([[[0, 1], [0, 2], [1, 2], [2, 1]]]), 300), 0)
    assert policy.table()[0].exp().tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-4)


def test_rewards_at_the_end_are_those_of_the_responses():
    kind = forest(horizon=2, n_prompts=2)
    rewards = torch.arange(len(kind.sequences), dtype=torch.float64).reshape(2, -1)
    given = Forest(replace(kind.world, rewards=at_end(kind, rewards)), *kind[1:])
    assert torch.equal(given.rewards, rewards)
