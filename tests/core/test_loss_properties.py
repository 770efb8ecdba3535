"""What every loss of the table must do: finite values, true gradients, nothing from padding or the batch's order."""

import math

import pytest
import torch
from loss_builders import called, map_pairs, random_inputs, random_pairs, rows, swapped
from torch.autograd import gradcheck

from tokenq.core.losses import LOSSES, find_loss, ipo, ipo_sum, margins
from tokenq.core.tensors import PairLogps, PairValues, TokenLogps

PAIR_LOSSES = [name for name, loss in LOSSES.items() if loss.unit == "pairs" and loss.output == "logps"]
LABELLED = [name for name, loss in LOSSES.items() if loss.unit == "labelled"]
each_pair_loss = pytest.mark.parametrize("name", PAIR_LOSSES)
each_labelled_loss = pytest.mark.parametrize("name", LABELLED)


@each_pair_loss
def test_one_finite_value_for_each_pair(name):
    policy, reference = random_pairs(0)
    inputs = random_inputs(name, policy)
    values = called(name, policy, reference, *inputs)
    assert values.shape == (5,)
    assert values.isfinite().all()
    if name == "discopop":
        return  # exponential in the margin: it overflows where the others are linear
    far = map_pairs(lambda side: TokenLogps(side.logps * 1e4, side.mask), policy)
    assert called(name, far, reference, *inputs).isfinite().all()


def widened(side):
    """Add columns that the mask leaves out; what stands in them must not matter."""
    more = torch.full((len(side.logps), 3), 7.0, dtype=torch.float64)
    return TokenLogps(torch.cat((side.logps, more), 1), torch.cat((side.mask, more < 0), 1))


def beside(function, inputs):
    """Apply a function of [B, T] or [B] to inputs of any form."""
    return [
        PairValues(function(one.chosen), function(one.rejected)) if isinstance(one, PairValues) else function(one)
        for one in inputs
    ]


@each_pair_loss
def test_order_and_padding_change_nothing(name):
    policy, reference = random_pairs(1)
    inputs = random_inputs(name, policy)
    values = called(name, policy, reference, *inputs)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = [map_pairs(lambda side: side.select(order), pairs) for pairs in (policy, reference)]
    got = called(name, *permuted, *beside(lambda one: one[order], inputs))
    torch.testing.assert_close(got, values[order], rtol=0, atol=1e-13)
    wide = [map_pairs(widened, pairs) for pairs in (policy, reference)]
    padded = beside(lambda one: torch.nn.functional.pad(one, (0, 3), value=9.0) if one.dim() == 2 else one, inputs)
    torch.testing.assert_close(called(name, *wide, *padded), values, rtol=0, atol=1e-13)


@each_pair_loss
def test_the_gradient_is_the_finite_difference(name):
    policy, reference = random_pairs(2)
    inputs = random_inputs(name, policy)

    def function(chosen, rejected):
        live = PairLogps(TokenLogps(chosen, policy.chosen.mask), TokenLogps(rejected, policy.rejected.mask))
        return called(name, live, reference, *inputs)

    sides = [side.logps.clone().requires_grad_() for side in (policy.chosen, policy.rejected)]
    if name != "wpo":  # whose weights count as constants: tests/core/test_losses.py has its gradient
        assert gradcheck(function, sides)


@each_pair_loss
def test_at_equal_models_every_loss_raises_the_chosen_and_lowers_the_rejected(name):
    policy, _ = random_pairs(3)
    chosen, rejected = (side.logps.clone().requires_grad_() for side in (policy.chosen, policy.rejected))
    live = PairLogps(TokenLogps(chosen, policy.chosen.mask), TokenLogps(rejected, policy.rejected.mask))
    called(name, live, policy, *random_inputs(name, policy)).sum().backward()
    taken, left = policy.chosen.mask, policy.rejected.mask
    if LOSSES[name].stepwise:  # an action without one of the other side is compared with nothing
        taken = left = taken & left
        assert (chosen.grad[~taken] == 0).all()
        assert (rejected.grad[~left] == 0).all()
    up, down = -chosen.grad[taken], rejected.grad[left]
    if name == "discopop":  # its slope at 0 is −3β/4 + β (1 − log 2)/(4τ): the wrong way round for τ < 0.1
        slope = -0.05 * (-0.75 + (1 - math.log(2)) / (4 * 0.05))
        torch.testing.assert_close(up, torch.full_like(up, slope), rtol=0, atol=1e-12)
        return
    assert (down > 0).all()
    if name == "apo_down":  # what lowers the chosen one and what keeps it above the other cancel
        torch.testing.assert_close(up, torch.zeros_like(up), rtol=0, atol=1e-15)
    else:
        assert (up > 0).all()
    assert (chosen.grad[~policy.chosen.mask] == 0).all()


def test_at_equal_models_dpo_is_log_2():
    policy, _ = random_pairs(3)
    assert LOSSES["dpo"].function(policy, policy).tolist() == pytest.approx([math.log(2)] * 5, abs=1e-12)


def test_swapping_the_sides_flips_the_margin():
    policy, reference = random_pairs(4)
    there, back = margins(policy, reference), margins(swapped(policy), swapped(reference))
    assert there.abs().min() > 0.01
    torch.testing.assert_close(back, -there, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "robust", "ipo_sum", "hinge", "exo", "discopop", "r_dpo", "tdpo1"])
def test_an_offset_of_the_prompt_cancels(name):
    """What both responses gain alike (the value of the prompt, V*(s_1)) leaves losses of the margin as they are."""
    policy, reference = random_pairs(5)
    shift = torch.zeros(5, 6, dtype=torch.float64)
    shift[:, 0] = torch.linspace(-2, 2, 5)
    moved = map_pairs(lambda side: TokenLogps(side.logps + shift, side.mask), policy)
    inputs = random_inputs(name, policy)
    got = called(name, moved, reference, *inputs)
    torch.testing.assert_close(got, called(name, policy, reference, *inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["nca", "sppo", "apo_zero", "bco_pair", "cal_dpo"])
def test_an_offset_of_the_prompt_does_not_cancel_in_anchored_losses(name):
    policy, reference = random_pairs(5)
    moved = map_pairs(lambda side: TokenLogps(side.logps + 0.5 * side.mask, side.mask), policy)
    assert (called(name, moved, reference) - called(name, policy, reference)).abs().max() > 1e-4


def test_conservative_dpo_without_flips_is_dpo_and_is_lowest_where_the_paper_says():
    policy, reference = random_pairs(6)
    for name in ("cdpo", "robust"):
        plain = find_loss(name, {"label_smoothing": 0.0}).function(policy, reference)
        torch.testing.assert_close(plain, LOSSES["dpo"].function(policy, reference), rtol=0, atol=1e-14)
    # σ(β h) = 1 − ε = 0.9, so h = log(9) / β with β = 0.1.
    best = torch.tensor([[math.log(9) / 0.1]], dtype=torch.float64, requires_grad=True)
    zero, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    policy = PairLogps(TokenLogps(best, mask), TokenLogps(zero, mask))
    LOSSES["cdpo"].function(policy, PairLogps(TokenLogps(zero, mask), TokenLogps(zero, mask))).sum().backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters", "same", "tolerance"),
    [
        ("dpop", {"penalty": 0.0, "beta": 0.1}, "dpo", 1e-14),
        ("r_dpo", {"alpha": 0.0}, "dpo", 1e-14),
        ("ld_dpo", {"alpha": 1.0}, "dpo", 1e-14),
        ("step_dpo", {"beta": 0.1}, "dpo", 1e-14),  # one step, of all tokens
        ("tdpo2", {"alpha": 0.0}, "dpo", 1e-14),
        ("tdpo2", {"alpha": 1.0}, "tdpo1", 1e-14),
        ("fdpo_alpha", {"alpha": 1e-7}, "dpo", 1e-5),
        ("fdpo_alpha", {"alpha": 1 - 1e-9}, "fdpo_forward_kl", 1e-5),
    ],
)
def test_where_a_loss_is_another(name, parameters, same, tolerance):
    policy, reference = random_pairs(7)
    got = called(name, policy, reference, *random_inputs(name, policy), loss=find_loss(name, parameters))
    want = called(same, policy, reference, *random_inputs(same, policy))
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def test_the_two_versions_of_ipo_agree_on_responses_of_one_token():
    policy, reference = (PairLogps(rows([-1.0], [-2.5]), rows([-0.5], [-3.0])) for _ in range(2))
    reference = map_pairs(lambda side: TokenLogps(side.logps * 1.3, side.mask), reference)
    torch.testing.assert_close(ipo(policy, reference), ipo_sum(policy, reference))


@each_pair_loss
def test_a_response_without_own_tokens_does_not_divide_by_zero(name):
    nothing = TokenLogps(torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.bool))
    pairs, reference = PairLogps(rows([-1.0, -2.0]), nothing), PairLogps(rows([-2.0, -3.0]), nothing)
    assert called(name, pairs, reference, *random_inputs(name, pairs)).isfinite().all()


def labelled_case(name, seed):
    """Return the log-probs of responses under two models with their labels and, for KTO, mismatched log-ratios."""
    policy, reference = (pairs.chosen for pairs in random_pairs(seed))
    inputs = [torch.tensor([True, False, False, True, True])]
    if "mismatched" in LOSSES[name].inputs:
        inputs.append(torch.tensor([0.4, -0.1, 0.3], dtype=torch.float64))
    return policy, reference, inputs


@each_labelled_loss
def test_labelled_losses_do_not_depend_on_order_or_padding(name):
    policy, reference, inputs = labelled_case(name, 1)
    loss = LOSSES[name].function
    values = loss(policy, reference, *inputs)
    order = torch.tensor([3, 0, 4, 2, 1])
    got = loss(policy.select(order), reference.select(order), inputs[0][order], *inputs[1:])
    torch.testing.assert_close(got, values[order], rtol=0, atol=1e-14)
    torch.testing.assert_close(loss(widened(policy), widened(reference), *inputs), values, rtol=0, atol=1e-14)
    assert values.shape == (5,)
    assert (loss(policy, reference, ~inputs[0], *inputs[1:]) - values).abs().min() > 1e-6


@each_labelled_loss
def test_the_gradient_of_labelled_losses(name):
    """Against finite differences; BCO's shift counts as a constant, so there against CE of rewards moved by it."""
    policy, reference, inputs = labelled_case(name, 2)
    logps = policy.logps.clone().requires_grad_()

    def function(logps):
        return LOSSES[name].function(TokenLogps(logps, policy.mask), reference, *inputs)

    if name != "bco":
        assert gradcheck(function, [logps])
        return
    rewards = 0.01 * (policy.sums() - reference.sums())
    shift = (rewards[inputs[0]].mean() + rewards[~inputs[0]].mean()) / 2
    (got,) = torch.autograd.grad(function(logps).sum(), logps)
    sign = torch.where(inputs[0], -1.0, 1.0)
    slopes = sign * 0.01 * torch.sigmoid(sign * (rewards - shift))
    torch.testing.assert_close(got, slopes[:, None] * policy.mask)


def test_rankings_of_several_lengths():
    """Padding of a ranking adds nothing, the order of rankings does not matter, and the gradient is true."""
    policy, reference = (pairs.chosen for pairs in random_pairs(3))
    loss = LOSSES["plackett_luce"].function
    rankings = torch.tensor([[4, 1, 0], [2, 3, -1]])
    values = loss(policy, reference, rankings)
    torch.testing.assert_close(loss(policy, reference, rankings.flip(0)), values.flip(0), rtol=0, atol=1e-14)
    pair = PairLogps(policy.select(torch.tensor([2])), policy.select(torch.tensor([3])))
    ref_pair = PairLogps(reference.select(torch.tensor([2])), reference.select(torch.tensor([3])))
    torch.testing.assert_close(values[1:], LOSSES["dpo"].function(pair, ref_pair), rtol=0, atol=1e-14)
    logps = policy.logps.clone().requires_grad_()
    assert gradcheck(lambda logps: loss(TokenLogps(logps, policy.mask), reference, rankings), [logps])
