"""Preference losses: numbers derived by hand, slopes, and what every row of the table must do."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from tokenq.core.losses import ALIASES, LOSSES, find_loss, ipo, ipo_sum, margins
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.errors import UserError

PAIR_LOSSES = [name for name, loss in LOSSES.items() if loss.unit == "pairs"]
each_pair_loss = pytest.mark.parametrize("name", PAIR_LOSSES)


def rows(*values, width=4):
    """Return log-probs of responses of several lengths, padded to one width."""
    padded = torch.zeros(len(values), width, dtype=torch.float64)
    mask = torch.zeros(len(values), width, dtype=torch.bool)
    for i, row in enumerate(values):
        padded[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        mask[i, : len(row)] = True
    return TokenLogps(padded, mask)


def swapped(pair):
    return PairLogps(pair.rejected, pair.chosen)


# One pair. Chosen, 2 tokens: log π = −1 − 2 = −3, log π_ref = −2 − 3 = −5: log-ratio 2, or 1 a token.
# Rejected, 4 tokens: log π = 4 · (−1.5) = −6, log π_ref = 4 · (−1.25) = −5: log-ratio −1, or −0.25 a token.
# So h = 2 − (−1) = 3 and, averaged per token, h̄ = 1 − (−0.25) = 1.25.
POLICY = PairLogps(rows([-1.0, -2.0]), rows([-1.5] * 4))
REFERENCE = PairLogps(rows([-2.0, -3.0]), rows([-1.25] * 4))
LOG1P_EXP = 0.20141327798275246  # log(1 + e^−1.5)


@pytest.mark.parametrize(
    ("name", "parameters", "forward", "backward"),
    [
        # β h = 1.5: −log σ(1.5) = log(1 + e^−1.5); the other way round −log σ(−1.5) = 1.5 + log(1 + e^−1.5).
        ("dpo", {"beta": 0.5}, LOG1P_EXP, 1.5 + LOG1P_EXP),
        # 0.8 a + 0.2 (1.5 + a) = a + 0.3, and 0.8 (1.5 + a) + 0.2 a = a + 1.2.
        ("cdpo", {"beta": 0.5, "label_smoothing": 0.2}, LOG1P_EXP + 0.3, LOG1P_EXP + 1.2),
        # 1/(2 · 0.5) = 1: (1.25 − 1)² and (−1.25 − 1)².
        ("ipo", {"beta": 0.5}, 0.0625, 5.0625),
        # (3 − 1)² and (−3 − 1)².
        ("ipo_sum", {"beta": 0.5}, 4.0, 16.0),
        # max(0, 1 − 1.5) and 1 + 1.5.
        ("hinge", {"beta": 0.5}, 0.0, 2.5),
        # max(0, 1 − 0.3).
        ("hinge", {"beta": 0.1}, 0.7, 1.3),
    ],
)
def test_golden_numbers(name, parameters, forward, backward):
    loss = find_loss(name, parameters).function
    assert loss(POLICY, REFERENCE).item() == pytest.approx(forward, abs=1e-12)
    assert loss(swapped(POLICY), swapped(REFERENCE)).item() == pytest.approx(backward, abs=1e-12)


def test_the_golden_numbers_cover_the_table():
    """A new loss needs numbers of its own."""
    assert set(LOSSES) == {"sft", "dpo", "cdpo", "ipo", "ipo_sum", "hinge"}


def test_sft_is_the_sum_over_the_own_tokens():
    """−(−1 − 2) = 3 and −4 · (−1.5) = 6; a token outside the mask counts nothing."""
    policy = rows([-1.0, -2.0], [-1.5] * 4)
    assert LOSSES["sft"].function(policy).tolist() == [3.0, 6.0]
    without_second = TokenLogps(policy.logps, policy.mask & torch.tensor([True, False, True, True]))
    assert LOSSES["sft"].function(without_second).tolist() == [1.0, 4.5]


def test_the_defaults_are_the_documented_ones():
    assert LOSSES["dpo"].parameters() == {"beta": 0.1}
    assert LOSSES["cdpo"].parameters() == {"beta": 0.1, "label_smoothing": 0.1}
    assert LOSSES["sft"].parameters() == {}
    # β h = 0.3 with the default β: −log σ(0.3).
    assert LOSSES["dpo"].function(POLICY, REFERENCE).item() == pytest.approx(0.5543552444685271, abs=1e-12)


def test_the_slope_of_dpo():
    """∂/∂ log π(chosen token) = −β σ(−β h) = −0.5 · 0.18242552 (and + for the rejected), the same for each token."""
    chosen = POLICY.chosen.logps.clone().requires_grad_()
    rejected = POLICY.rejected.logps.clone().requires_grad_()
    policy = PairLogps(TokenLogps(chosen, POLICY.chosen.mask), TokenLogps(rejected, POLICY.rejected.mask))
    find_loss("dpo", {"beta": 0.5}).function(policy, REFERENCE).sum().backward()
    slope = 0.5 * 0.18242552380635635
    assert chosen.grad[0].tolist() == pytest.approx([-slope, -slope, 0, 0], abs=1e-12)
    assert rejected.grad[0].tolist() == pytest.approx([slope] * 4, abs=1e-12)


def random_pairs(seed, n=5, width=6):
    """Return the log-probs of n pairs under two models, with masks that have holes and differ in length."""
    generator = torch.Generator().manual_seed(seed)

    def one(mask):
        values = -torch.rand(n, width, generator=generator, dtype=torch.float64) * 3
        return TokenLogps(values * mask, mask)

    masks = [torch.rand(n, width, generator=generator) < 0.7 for _ in range(2)]
    for mask in masks:
        mask[:, 0] = True
    return PairLogps(*map(one, masks)), PairLogps(*map(one, masks))


def map_pairs(function, pairs):
    return PairLogps(function(pairs.chosen), function(pairs.rejected))


@each_pair_loss
def test_one_finite_value_for_each_pair(name):
    policy, reference = random_pairs(0)
    values = LOSSES[name].function(policy, reference)
    assert values.shape == (5,)
    assert values.isfinite().all()
    far = map_pairs(lambda side: TokenLogps(side.logps * 1e4, side.mask), policy)
    assert LOSSES[name].function(far, reference).isfinite().all()


@each_pair_loss
def test_order_and_padding_change_nothing(name):
    policy, reference = random_pairs(1)
    loss = LOSSES[name].function
    values = loss(policy, reference)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = loss(*(map_pairs(lambda side: side.select(order), pairs) for pairs in (policy, reference)))
    torch.testing.assert_close(permuted, values[order], rtol=0, atol=1e-14)

    def padded(side):
        """Add columns that the mask leaves out; what stands in them must not matter."""
        more = torch.full((5, 3), 7.0, dtype=torch.float64)
        return TokenLogps(torch.cat((side.logps, more), 1), torch.cat((side.mask, more < 0), 1))

    wide = loss(map_pairs(padded, policy), map_pairs(padded, reference))
    torch.testing.assert_close(wide, values, rtol=0, atol=1e-14)


@each_pair_loss
def test_the_gradient_is_the_finite_difference(name):
    policy, reference = random_pairs(2)

    def function(chosen, rejected):
        pairs = PairLogps(TokenLogps(chosen, policy.chosen.mask), TokenLogps(rejected, policy.rejected.mask))
        return LOSSES[name].function(pairs, reference)

    inputs = [side.logps.clone().requires_grad_() for side in (policy.chosen, policy.rejected)]
    assert gradcheck(function, inputs)


@each_pair_loss
def test_at_equal_models_every_loss_raises_the_chosen_and_lowers_the_rejected(name):
    policy, _ = random_pairs(3)
    chosen, rejected = (side.logps.clone().requires_grad_() for side in (policy.chosen, policy.rejected))
    live = PairLogps(TokenLogps(chosen, policy.chosen.mask), TokenLogps(rejected, policy.rejected.mask))
    LOSSES[name].function(live, policy).sum().backward()
    assert (chosen.grad[policy.chosen.mask] < 0).all()
    assert (rejected.grad[policy.rejected.mask] > 0).all()
    assert (chosen.grad[~policy.chosen.mask] == 0).all()


def test_at_equal_models_dpo_is_log_2():
    policy, _ = random_pairs(3)
    assert LOSSES["dpo"].function(policy, policy).tolist() == pytest.approx([math.log(2)] * 5, abs=1e-12)


def test_swapping_the_sides_flips_the_margin():
    policy, reference = random_pairs(4)
    there, back = margins(policy, reference), margins(swapped(policy), swapped(reference))
    assert there.abs().min() > 0.01
    torch.testing.assert_close(back, -there, rtol=0, atol=1e-12)
    assert margins(POLICY, REFERENCE).item() == 3.0


def test_an_offset_of_the_prompt_cancels():
    """What both responses gain alike (the value of the prompt, V*(s_1)) leaves summed losses as they are."""
    policy, reference = random_pairs(5)
    shift = torch.zeros(5, 6, dtype=torch.float64)
    shift[:, 0] = torch.linspace(-2, 2, 5)
    moved = map_pairs(lambda side: TokenLogps(side.logps + shift, side.mask), policy)
    for name in ("dpo", "cdpo", "ipo_sum", "hinge"):
        loss = LOSSES[name].function
        torch.testing.assert_close(loss(moved, reference), loss(policy, reference), rtol=0, atol=1e-12)


def test_conservative_dpo_without_flips_is_dpo_and_is_lowest_where_the_paper_says():
    policy, reference = random_pairs(6)
    plain = find_loss("cdpo", {"label_smoothing": 0.0}).function(policy, reference)
    torch.testing.assert_close(plain, LOSSES["dpo"].function(policy, reference), rtol=0, atol=1e-14)
    # σ(β h) = 1 − ε = 0.9, so h = log(9) / β with β = 0.1.
    best = torch.tensor([[math.log(9) / 0.1]], dtype=torch.float64, requires_grad=True)
    zero, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    policy = PairLogps(TokenLogps(best, mask), TokenLogps(zero, mask))
    LOSSES["cdpo"].function(policy, PairLogps(TokenLogps(zero, mask), TokenLogps(zero, mask))).sum().backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-12)


def test_the_two_versions_of_ipo_agree_on_responses_of_one_token():
    policy, reference = (PairLogps(rows([-1.0], [-2.5]), rows([-0.5], [-3.0])) for _ in range(2))
    reference = map_pairs(lambda side: TokenLogps(side.logps * 1.3, side.mask), reference)
    torch.testing.assert_close(ipo(policy, reference), ipo_sum(policy, reference))


def test_a_response_without_own_tokens_does_not_divide_by_zero():
    nothing = TokenLogps(torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.bool))
    pairs = PairLogps(POLICY.chosen, nothing)
    for name in PAIR_LOSSES:
        assert LOSSES[name].function(pairs, PairLogps(REFERENCE.chosen, nothing)).isfinite().all()


def test_find_loss_binds_parameters_and_leaves_the_table_alone():
    bound = find_loss("dpo", {"beta": 0.5})
    assert bound.function(POLICY, REFERENCE).item() == pytest.approx(LOG1P_EXP, abs=1e-12)
    assert LOSSES["dpo"].function(POLICY, REFERENCE).item() != pytest.approx(LOG1P_EXP, abs=1e-3)
    assert (bound.unit, bound.reference) == ("pairs", True)


def test_spellings_of_other_trainers():
    assert ALIASES["sigmoid"] == "dpo"
    for alias, name in ALIASES.items():
        torch.testing.assert_close(
            find_loss(alias).function(POLICY, REFERENCE), LOSSES[name].function(POLICY, REFERENCE)
        )


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(UserError, match=r"Unknown loss 'dop'.\n  Did you mean 'dpo'\?.*hinge"):
        find_loss("dop")
    with pytest.raises(UserError, match=r"'hinge' has no parameter 'label_smoothing'.\n  It takes beta"):
        find_loss("hinge", {"label_smoothing": 0.1})
    with pytest.raises(UserError, match="It takes no parameters"):
        find_loss("sft", {"beta": 0.1})
    for beta in (0.0, -0.1):
        with pytest.raises(UserError, match="a temperature is positive"):
            find_loss("dpo", {"beta": beta})
    for epsilon in (-0.1, 0.6):
        with pytest.raises(UserError, match="no flip probability"):
            find_loss("cdpo", {"label_smoothing": epsilon}).function(POLICY, REFERENCE)
