"""Credit by hand: rewards of tokens, baselines of groups, values and spans, weights of another writer."""

import math

import pytest
import torch

from tokenq.core.credit import (
    CORRECTIONS,
    Moments,
    by_step,
    by_turn,
    denormalised,
    gae,
    group_relative,
    implicit_baseline,
    importance_weights,
    kl_estimates,
    leave_one_out,
    normalised,
    outcome_rewards,
    potential,
    prime_advantages,
    returns_to_go,
    scaled,
    whiten,
    with_more,
)
from tokenq.core.tensors import PrefixValues

# The second token of the first response is not its own; the second response has two tokens.
MASK = torch.tensor([[True, False, True, True], [True, True, False, False]])


def numbers(*rows):
    return torch.tensor(rows, dtype=torch.float64)


REWARDS = numbers([1, 99, 2, 3], [4, 5, 99, 99])
GROUPS = torch.tensor([7, 7])
ONE = numbers([5, 2])[0]


def test_an_outcome_stands_at_the_last_own_token():
    assert outcome_rewards(ONE, MASK).tolist() == [[0, 0, 0, 5], [0, 2, 0, 0]]
    hole_at_the_end = torch.tensor([[True, True, False]])
    assert outcome_rewards(numbers([3])[0], hole_at_the_end).tolist() == [[0, 3, 0]]
    assert outcome_rewards(numbers([3])[0], torch.zeros(1, 2, dtype=torch.bool)).tolist() == [[0, 0]]


def test_estimates_of_kl():
    """d = log 2: d, d²/2 and ½ − 1 + d."""
    got = [kl_estimates(numbers([-1.0]), numbers([-1.0 - math.log(2)]), name).item() for name in ("k1", "k2", "k3")]
    assert got == pytest.approx([math.log(2), math.log(2) ** 2 / 2, math.log(2) - 0.5], abs=1e-12)


def test_returns_pass_over_what_others_wrote():
    assert returns_to_go(REWARDS, MASK).tolist() == [[6, 0, 5, 3], [9, 5, 0, 0]]
    assert returns_to_go(REWARDS, MASK, 0.5).tolist() == [[1 + 0.5 * 3.5, 0, 3.5, 3], [6.5, 5, 0, 0]]


def test_groups():
    """5 and 2 beside 8 (mean 5), and one alone; sample standard deviation of 5, 2, 8: 3."""
    rewards, groups = numbers([5, 1, 2, 8])[0], torch.tensor([3, 0, 3, 3])
    assert leave_one_out(rewards, groups).tolist() == [0, 0, -4.5, 4.5]
    assert group_relative(rewards, groups, scaled=False).tolist() == [0, 0, -3, 3]
    assert group_relative(rewards, groups).tolist() == pytest.approx([0, 0, -3 / 3.0001, 3 / 3.0001], abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equal_rewards_have_no_advantage_whatever_rounding_makes_of_their_mean(count):
    rewards, groups = torch.full((count,), 0.1), torch.zeros(count, dtype=torch.long)
    assert group_relative(rewards, groups).tolist() == [0] * count
    assert leave_one_out(rewards, groups).abs().max() < 1e-7


def test_generalised_advantages():
    """γ = ½, λ = ½, V 1, 2, 3 and 4, 5; nothing behind the end, or 8 behind the second response, which was cut.

    First: δ = 3 − 3 = 0; 2 + ½·3 − 2 = 1.5; 1 + ½·2 − 1 = 1, so 1 + ¼·1.5. Second: 5 − 5 = 0 and 4 + 2.5 − 4 = 2.5;
    with 8 behind it 5 + 4 − 5 = 4 and 2.5 + ¼·4.
    """
    values = PrefixValues(numbers([1, 99, 2, 3], [4, 5, 99, 99]) * MASK, MASK)
    advantages, returns = gae(REWARDS, values, 0.5, 0.5)
    assert advantages.tolist() == [[1.375, 0, 1.5, 0], [2.5, 0, 0, 0]]
    assert returns.tolist() == [[2.375, 0, 3.5, 3], [6.5, 5, 0, 0]]
    cut, _ = gae(REWARDS, values, 0.5, 0.5, bootstrap=numbers([0, 8])[0])
    assert cut.tolist() == [[1.375, 0, 1.5, 0], [3.5, 4, 0, 0]]


def test_with_lambda_one_advantages_are_returns_less_values():
    values = PrefixValues(numbers([1, 0, 2, 3], [4, 5, 0, 0]), MASK)
    advantages, returns = gae(REWARDS, values)
    assert torch.equal(advantages, (returns_to_go(REWARDS, MASK) - values.values) * MASK)
    assert torch.equal(returns, returns_to_go(REWARDS, MASK))


def test_dense_rewards_in_two_forms():
    """½ of 1, 2, 3 and 4, 5; the potential form takes 3 and 4.5 back at the end."""
    outcome = outcome_rewards(ONE, MASK)
    assert scaled(outcome, REWARDS * MASK, 0.5).tolist() == [[0.5, 0, 1, 6.5], [2, 4.5, 0, 0]]
    shaped = potential(outcome, REWARDS, MASK, 0.5)
    assert shaped.tolist() == [[0.5, 0, 1, 3.5], [2, 0, 0, 0]]
    assert shaped.sum(-1).tolist() == ONE.tolist()


def test_a_baseline_from_a_pair():
    """R − Σ dense: 5 − 6 = −1 and 2 − 9 = −7, each the other's V*; before the tokens 0, 1, 3 and 0, 4 were earned.

    G of the outcome is 5 and 2, above the own V* by 6 and 9: the other's is taken off, or a number that is known.
    """
    ahead = returns_to_go(outcome_rewards(ONE, MASK), MASK)
    raw = implicit_baseline(ahead, REWARDS, ONE, GROUPS, MASK, offset=0.0)
    assert raw.tolist() == [[12, 0, 11, 9], [3, -1, 0, 0]]
    assert implicit_baseline(ahead, REWARDS, ONE, GROUPS, MASK, offset=2.0).tolist() == [[10, 0, 9, 7], [1, -3, 0, 0]]
    centred = implicit_baseline(ahead, REWARDS, ONE, GROUPS, MASK)
    assert centred.tolist() == [[3, 0, 2, 0], [-3, -7, 0, 0]]


def test_the_mean_that_is_taken_off_is_over_the_other_responses_of_the_batch():
    """Two prompts, dense rewards 0: V* is the other's R; G − V* is 0 in every response, or what each has paid."""
    rewards, mask = numbers([1, 2, 6, 4])[0], torch.ones(4, 1, dtype=torch.bool)
    groups, nothing = torch.tensor([0, 0, 1, 1]), torch.zeros(4, 1, dtype=torch.float64)
    got = implicit_baseline(rewards[:, None], nothing, rewards, groups, mask)
    assert got[:, 0].tolist() == leave_one_out(rewards, groups).tolist()
    paid = implicit_baseline(rewards[:, None] - numbers([1, 2, 3, 4]).T, nothing, rewards, groups, mask)
    assert paid[:, 0].tolist() == pytest.approx([1 - 1 - 2 + 3, 2 - 2 - 1 + 8 / 3, 6 - 3 - 4 + 7 / 3, 4 - 4 - 6 + 2])


def test_prime_by_hand():
    """Means of the dense rewards 2 and 4.5 a token, each taken off every token of the other.

    First: 1 − 4.5, 2 − 4.5, 3 − 4.5, from the token on −7.5, −4, −1.5; second: 4 − 2 and 5 − 2: 5, 3. Outcomes: ±3.
    """
    got = prime_advantages(ONE, REWARDS, GROUPS, MASK, weight=2.0)
    assert got.tolist() == [[3 - 15, 0, 3 - 8, 3 - 3], [-3 + 10, -3 + 6, 0, 0]]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_code_of_prime_adds_what_a_token_has_above_its_own_mean(count):
    """r_t K/(K−1) − Σ_j mean_j/(K−1), as its code has it, is the equation + (d_t − mean_i)/(K − 1), to go."""
    dice = torch.Generator().manual_seed(count)
    dense, mask = torch.randn(count, 4, generator=dice, dtype=torch.float64), torch.rand(count, 4, generator=dice) < 0.7
    mask[:, 0] = True
    dense, groups = dense * mask, torch.zeros(count, dtype=torch.long)
    means = dense.sum(-1) / mask.sum(-1)
    code = torch.zeros_like(dense)
    for i in range(count):
        per_token = [dense[i, t] * count / (count - 1) - means.sum() / (count - 1) for t in range(4)]
        for t in range(4):
            code[i, t] = sum(per_token[s] for s in range(t, 4) if mask[i, s]) * mask[i, t]
    equation = prime_advantages(torch.zeros(count, dtype=torch.float64), dense, groups, mask)
    added = returns_to_go((dense - means[:, None]) / (count - 1), mask)
    torch.testing.assert_close(code, equation + added)
    assert added[:, 0].abs().max() < 1e-12  # nothing in sum


def test_steps_are_paid_at_their_last_token():
    steps = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]])
    assert by_step(REWARDS, steps, MASK).tolist() == [[0, 0, 3, 3], [4, 5, 0, 0]]


def test_a_turn_has_one_advantage():
    """Whole returns 6 and 9; turns of the first: 1, then 5; of the second: 9 alone."""
    turns = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    got = by_turn(REWARDS, turns, GROUPS, MASK)
    assert got.tolist() == [[6 - 9, 0, 5 - 9, 5 - 9], [9 - 6, 9 - 6, 0, 0]]


def test_returns_are_normalised_by_all_that_came_before():
    """Of 0 and 2: mean 1, deviation 1. With 4 and 4: mean 2.5, mean square 9, so that the variance is 2.75."""
    none = Moments()
    assert normalised(torch.tensor([3.0]), none).tolist() == denormalised(torch.tensor([3.0]), none).tolist() == [3.0]
    assert with_more(none, torch.zeros(0)) == none
    first = with_more(none, torch.tensor([0.0, 2.0]))
    assert first == (2, 1, 1)
    both = with_more(first, torch.tensor([4.0, 4.0]))
    assert both == pytest.approx((4, 2.5, math.sqrt(2.75)))
    assert normalised(torch.tensor([4.0]), both).item() == pytest.approx(1.5 / math.sqrt(2.75))
    assert denormalised(torch.tensor([1.0]), both).item() == pytest.approx(2.5 + math.sqrt(2.75))
    equal = with_more(none, torch.ones(3))
    assert normalised(torch.tensor([1.0, 1.1]), equal).tolist() == pytest.approx([0, 1000], rel=1e-4)  # never infinite


def test_whitening_counts_own_tokens_alone():
    got = whiten(numbers([1, 99, 3, 1], [3, 2, 99, 99]), MASK)
    spread = math.sqrt(0.8 + 1e-8)
    want = [[-1 / spread, 0, 1 / spread, -1 / spread], [1 / spread, 0, 0, 0]]
    assert [pytest.approx(row, abs=1e-12) for row in want] == got.tolist()
    assert whiten(torch.full((2, 4), 3.0), MASK).tolist() == [[0.0] * 4] * 2
    assert whiten(numbers([1.0, 2.0]), torch.zeros(1, 2, dtype=torch.bool)).tolist() == [[0, 0]]


def test_weights_of_another_writer():
    """Ratios 4, ·, ½ and 1 in the first response, so 2 as a whole; ¼ and 8 in the second: 2 as well."""
    old = numbers([4, 1, 0.5, 1], [0.25, 8, 1, 1]).log()
    writer = torch.where(MASK, 0.0, -5.0).double()

    def weights(kind, cap=None):
        return importance_weights(old, writer, MASK, kind, cap)

    def close(got, want):
        torch.testing.assert_close(got, numbers(*want), rtol=0, atol=1e-12)

    close(weights("token"), [[2, 0, 0.5, 1], [0.25, 2, 0, 0]])
    close(weights("token", 3.0), [[3, 0, 0.5, 1], [0.25, 3, 0, 0]])
    close(weights("sequence"), [[2, 0, 2, 2], [2, 2, 0, 0]])
    close(weights("sequence", 1.5), [[1.5, 0, 1.5, 1.5], [1.5, 1.5, 0, 0]])
    close(weights("icepop"), [[4, 0, 0.5, 1], [0, 0, 0, 0]])
    # The mean ratio of a token is 2^⅓ = 1.26 in the first response, and 2^½ = 1.41 in the second.
    close(weights("geometric"), [[0] * 4] * 2)
    close(weights("geometric", 1.3), [[1, 0, 1, 1], [0] * 4])
    assert CORRECTIONS.keys() == {"token", "sequence", "icepop", "geometric"}


def test_responses_of_the_writer_itself_weigh_one():
    for kind in CORRECTIONS:
        assert torch.equal(importance_weights(REWARDS, REWARDS, MASK, kind), MASK.double())
