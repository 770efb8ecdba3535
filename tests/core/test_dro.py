"""DRO-V: its numbers by hand, the gradients of policy and value apart, and what padding and order change (nothing)."""

import pytest
import torch
from loss_builders import random_pairs, rows
from torch.autograd import gradcheck

from tokenq.core.losses import find_loss, find_sum
from tokenq.core.losses.dro import dro, dro_policy, dro_value, residuals
from tokenq.core.losses.inputs import Scene, prompt_values, token_values
from tokenq.core.packing import pack
from tokenq.core.tensors import Outputs, PrefixValues, TokenLogps
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse

# One response of two tokens with log π/π_ref = 0.5 and −0.25, reward 2, β = 0.4, V = 0.3 before the first token and
# 1.1 before the second:
#   from the first on  2 − 0.3 − 0.4 · 0.25    = 1.6
#   from the second on 2 − 1.1 − 0.4 · (−0.25) = 1.0
POLICY, REFERENCE = rows([-1.0, -2.0]), rows([-1.5, -1.75])
REWARDS = torch.tensor([2.0], dtype=torch.float64)
BETA = 0.4


def values(*numbers, counted=2):
    """Return values before the tokens of one response, the first `counted` of which count."""
    held = rows(list(numbers))
    return PrefixValues(held.logps, held.mask & (torch.arange(held.mask.shape[1]) < counted))


def test_by_hand():
    """Per token (1.6² + 1.0²)/2 = 1.78, for the prompt 1.6² = 2.56; the policy's part over 2β, the value's over 2."""
    left = residuals(POLICY, REFERENCE, REWARDS, values(0.3, 1.1), BETA)
    assert left[0, :2].tolist() == pytest.approx([1.6, 1.0], abs=1e-12)
    for counted, square in ((2, 1.78), (1, 2.56)):
        given = (POLICY, REFERENCE, REWARDS, values(0.3, 1.1, counted=counted))
        assert dro_policy(*given, beta=BETA).tolist() == pytest.approx([square / 0.8], abs=1e-12)
        assert dro_value(*given, beta=BETA).tolist() == pytest.approx([square / 2], abs=1e-12)
        assert dro(*given, beta=BETA).tolist() == pytest.approx([square / 0.8 + square / 2], abs=1e-12)


def test_the_gradients_by_hand():
    """Token 1 is ahead of the first prefix alone, token 2 of both: −1.6/2 and −(1.6 + 1.0)/2; V: −1.6/2 and −1.0/2."""
    logps = POLICY.logps.clone().requires_grad_()
    held = values(0.3, 1.1).values.clone().requires_grad_()
    given = (TokenLogps(logps, POLICY.mask), REFERENCE, REWARDS, PrefixValues(held, POLICY.mask))
    dro(*given, beta=BETA).sum().backward()
    assert logps.grad[0].tolist() == pytest.approx([-0.8, -1.3, 0, 0], abs=1e-12)
    assert held.grad[0].tolist() == pytest.approx([-0.8, -0.5, 0, 0], abs=1e-12)


def test_the_gradient_of_the_policy_is_the_residual_whatever_beta():
    """Algorithm 1 with one value per response: −(r − V − β d) for each of its tokens; 1/β is taken out."""
    for beta in (0.1, 1.0, 5.0):
        logps = POLICY.logps.clone().requires_grad_()
        given = (TokenLogps(logps, POLICY.mask), REFERENCE, REWARDS, values(0.3, 1.1, counted=1))
        dro(*given, beta=beta).sum().backward()
        assert logps.grad[0, :2].tolist() == pytest.approx([-(2 - 0.3 - beta * 0.25)] * 2, abs=1e-12)


def drawn(seed):
    """Return random responses under two models with rewards and values."""
    policy, reference = (pairs.chosen for pairs in random_pairs(seed))
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(5, generator=generator, dtype=torch.float64)
    held = torch.randn(5, 6, generator=generator, dtype=torch.float64) * policy.mask
    return policy, reference, rewards, PrefixValues(held, policy.mask)


@pytest.mark.parametrize("one_a_response", [False, True])
def test_each_part_against_finite_differences(one_a_response):
    policy, reference, rewards, every = drawn(0)
    first = every.mask & (every.mask.cumsum(1) == 1)
    mask = first if one_a_response else every.mask

    def of_policy(logps):
        return dro_policy(
            TokenLogps(logps, policy.mask), reference, rewards, PrefixValues(every.values, mask), beta=0.3
        )

    def of_value(held):
        return dro_value(policy, reference, rewards, PrefixValues(held, mask), beta=0.3)

    assert gradcheck(of_policy, [policy.logps.clone().requires_grad_()])
    assert gradcheck(of_value, [every.values.clone().requires_grad_()])


def test_no_gradient_goes_from_one_part_to_the_other_network():
    policy, reference, rewards, every = drawn(1)
    logps, held = policy.logps.clone().requires_grad_(), every.values.clone().requires_grad_()
    given = (TokenLogps(logps, policy.mask), reference, rewards, PrefixValues(held, every.mask))
    assert torch.autograd.grad(dro_policy(*given).sum(), held, allow_unused=True) == (None,)
    assert torch.autograd.grad(dro_value(*given).sum(), logps, allow_unused=True) == (None,)


def test_order_and_padding_change_nothing():
    policy, reference, rewards, every = drawn(2)
    want = dro(policy, reference, rewards, every)
    order = torch.tensor([3, 0, 4, 2, 1])
    got = dro(policy.select(order), reference.select(order), rewards[order], every.select(order))
    torch.testing.assert_close(got, want[order], rtol=0, atol=1e-13)

    def wide(numbers, mask):
        more = torch.full((5, 3), 7.0, dtype=torch.float64)
        return torch.cat((numbers, more), 1), torch.cat((mask, more < 0), 1)

    one, other = (TokenLogps(*wide(side.logps, side.mask)) for side in (policy, reference))
    torch.testing.assert_close(dro(one, other, rewards, PrefixValues(*wide(every.values, every.mask))), want)


def test_what_holes_in_a_response_say():
    """Text that the policy did not write is in no sum, and no value before it counts."""
    mask = torch.tensor([[True, False, True]])
    policy = TokenLogps(torch.tensor([[-1.0, 9.0, -2.0]], dtype=torch.float64), mask)
    reference = TokenLogps(torch.tensor([[-1.5, -9.0, -1.75]], dtype=torch.float64), mask)
    held = PrefixValues(torch.tensor([[0.3, 50.0, 1.1]], dtype=torch.float64), mask)
    assert dro_value(policy, reference, REWARDS, held, beta=BETA).tolist() == pytest.approx([0.89], abs=1e-12)


def test_values_stand_where_they_were_read():
    """Two responses of 3 and 2 tokens, the first token of one not the policy's: before each own token, or the first."""

    def response(n, mask):
        return TokenResponse(
            torch.arange(n).int().numpy(), torch.tensor(mask).numpy(), True, response_columns={"rewards": float(n)}
        )

    ids = torch.tensor([7, 8]).int().numpy()
    group = TokenGroup(ids, (response(3, [False, True, True]), response(2, [True, True])), False, "row 1")
    batch = pack([group])
    assert batch.actions.response_columns["rewards"].tolist() == [3.0, 2.0]
    scene = Scene(batch.actions, Outputs(torch.zeros(4), values=torch.tensor([1.0, 2.0, 3.0, 4.0])))
    every, first = token_values(scene), prompt_values(scene)
    assert every.values.tolist() == [[0, 1, 2], [3, 4, 0]]
    assert every.mask.tolist() == [[False, True, True], [True, True, False]]
    assert first.mask.tolist() == [[False, True, False], [True, False, False]]
    with pytest.raises(UserError, match="needs a value network"):
        token_values(Scene(batch.actions, Outputs(torch.zeros(4))))


def test_the_row():
    row = find_loss("dro")
    assert (row.unit, row.selection, row.parameters(), row.choices()) == (
        "rewarded",
        "rewarded",
        {"beta": 1.0},
        {"values": "prompt"},
    )
    assert find_sum("dro", {"values": "tokens"}).inputs == {"rewards": "data", "values": "tokens"}
    assert find_sum("dro").networks == ("values",)
    assert find_sum("kto").networks == ()
    with pytest.raises(UserError, match="Unknown source of values 'token'"):
        find_loss("dro", {"values": "token"})
    with pytest.raises(UserError, match="beta = 0"):
        find_loss("dro", {"beta": 0.0})
