"""The reading as a Q-function: implicit rewards, their sums, and the value curve."""

import torch

from tokenq.core.qfunction import implicit_rewards, prefix_values, sequence_rewards
from tokenq.core.tensors import TokenLogps

MASK = torch.tensor([[True, True, True, False], [True, False, True, True]])
POLICY = TokenLogps(torch.tensor([[-1.0, -2.0, -0.5, 0.0], [-3.0, 0.0, -1.0, -0.25]], dtype=torch.float64), MASK)
REFERENCE = TokenLogps(torch.tensor([[-2.0, -1.0, -1.0, 0.0], [-2.0, 0.0, -1.5, -0.25]], dtype=torch.float64), MASK)


def test_implicit_rewards_by_hand():
    """β = 0.5: halves of the log-ratios (1, −1, 0.5) and (−1, –, 0.5, 0)."""
    rewards = implicit_rewards(POLICY, REFERENCE, 0.5)
    assert rewards.tolist() == [[0.5, -0.5, 0.25, 0.0], [-0.5, 0.0, 0.25, 0.0]]
    assert sequence_rewards(POLICY, REFERENCE, 0.5).tolist() == [0.25, -0.25]


def test_tokens_that_the_policy_did_not_write_earn_nothing():
    garbage = TokenLogps(torch.where(MASK, POLICY.logps, 9.0), MASK)
    assert torch.equal(implicit_rewards(garbage, REFERENCE, 0.5), implicit_rewards(POLICY, REFERENCE, 0.5))


def test_prefix_values_by_hand():
    """Running sums that begin at 0: one more column than there are tokens."""
    values = prefix_values(implicit_rewards(POLICY, REFERENCE, 0.5))
    assert values.tolist() == [[0.0, 0.5, 0.0, 0.25, 0.25], [0.0, -0.5, -0.5, -0.25, -0.25]]


def test_rewards_telescope():
    """The last prefix value is the sequence reward; differences of the curve give the rewards back."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(6, 9, generator=generator) < 0.8
    policy, reference = (
        TokenLogps(-torch.rand(6, 9, generator=generator, dtype=torch.float64) * mask, mask) for _ in range(2)
    )
    rewards = implicit_rewards(policy, reference, 0.3)
    values = prefix_values(rewards)
    torch.testing.assert_close(values[:, -1], sequence_rewards(policy, reference, 0.3), rtol=0, atol=1e-14)
    torch.testing.assert_close(values.diff(dim=1), rewards, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        sequence_rewards(policy, reference, 0.3), 0.3 * (policy.sums() - reference.sums()), rtol=0, atol=1e-14
    )


def test_equal_models_have_no_rewards():
    assert implicit_rewards(POLICY, POLICY, 0.5).abs().sum() == 0
    assert prefix_values(implicit_rewards(POLICY, POLICY, 0.5)).abs().sum() == 0
