"""Losses of reward models: numbers by hand, true gradients, and what must not matter."""

import math

import pytest
import torch
from loss_builders import sigmoid, softplus
from torch.autograd import gradcheck

from tokenq.core.losses import LOSSES, find_loss, find_sum
from tokenq.errors import UserError

PAIR_LOSSES = [name for name, row in LOSSES.items() if row.output == "rewards" and row.unit == "pairs"]
NAN = float("nan")


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


# Two pairs: rewards 2 over 0.5 with margin 1, and −1 over 1 with margin 3.
CHOSEN, REJECTED, MARGIN = numbers(2.0, -1.0), numbers(0.5, 1.0), numbers(1.0, 3.0)

GOLDEN = {
    # −log σ(1.5) and −log σ(−2).
    ("bradley_terry", ()): [softplus(-1.5), softplus(2)],
    # (2 + 0.5)² = 6.25 and 0, a tenth of them.
    ("bradley_terry", (("centre_weight", 0.1),)): [softplus(-1.5) + 0.625, softplus(2)],
    # 1.5 − 1 = 0.5 and −2 − 3 = −5.
    ("margin_bradley_terry", ()): [softplus(-0.5), softplus(5)],
    # 1.5 − 0.5 = 1 and −2 − 1.5 = −3.5.
    ("margin_bradley_terry", (("scale", 0.5),)): [softplus(-1), softplus(3.5)],
    ("scaled_bradley_terry", ()): [softplus(-1.5), 3 * softplus(2)],
}


@pytest.mark.parametrize(("name", "options"), GOLDEN)
def test_pairs_by_hand(name, options):
    loss = find_loss(name, dict(options))
    got = loss.function(CHOSEN, REJECTED, *([MARGIN] if loss.inputs else []))
    assert got.tolist() == pytest.approx(GOLDEN[name, options], abs=1e-12)


def test_every_loss_of_a_pair_has_numbers_here():
    assert {name for name, _ in GOLDEN} == set(PAIR_LOSSES)


def test_regression_by_hand():
    """(2 − 1)² + (0 − 3)² = 10; the second response was rated on the first attribute alone: (−1 − 1)² = 4."""
    rewards, ratings = torch.stack((numbers(2, 0), numbers(-1, 7))), torch.stack((numbers(1, 3), numbers(1, NAN)))
    assert LOSSES["regression"].function(rewards, ratings).tolist() == [10.0, 4.0]


def test_a_missing_rating_has_no_gradient():
    """2 (r − y): 2 and −6; −4 and nothing, and in no place NaN."""
    rewards = torch.stack((numbers(2, 0), numbers(-1, 7))).requires_grad_()
    ratings = torch.stack((numbers(1, 3), numbers(1, NAN)))
    LOSSES["regression"].function(rewards, ratings).sum().backward()
    assert rewards.grad.tolist() == [[2.0, -6.0], [-4.0, 0.0]]


def test_process_by_hand():
    got = LOSSES["process"].function(numbers(1.5, -0.5, 1.5), torch.tensor([True, True, False]))
    assert got.tolist() == pytest.approx([softplus(-1.5), softplus(0.5), softplus(1.5)], abs=1e-12)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_the_gradient_of_pairs_is_the_finite_difference(name):
    margin = [MARGIN] if LOSSES[name].inputs else []
    sides = [CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()]
    options = {"centre_weight": 0.3} if name == "bradley_terry" else {}
    assert gradcheck(lambda w, lost: find_loss(name, options).function(w, lost, *margin), sides)


def test_the_gradients_of_regression_and_process():
    rewards = torch.stack((numbers(2, 0.3), numbers(-1, 0.7))).requires_grad_()
    ratings = torch.stack((numbers(1, 3), numbers(1, 0.5)))
    assert gradcheck(lambda r: LOSSES["regression"].function(r, ratings), [rewards])
    steps = torch.tensor([True, False])
    assert gradcheck(lambda r: LOSSES["process"].function(r, steps), [numbers(0.4, -1.2).requires_grad_()])


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_what_both_responses_of_a_prompt_have_more_changes_nothing(name):
    margin = [MARGIN] if LOSSES[name].inputs else []
    loss, shift = LOSSES[name].function, numbers(3.0, -7.0)
    want = loss(CHOSEN, REJECTED, *margin)
    torch.testing.assert_close(loss(CHOSEN + shift, REJECTED + shift, *margin), want, rtol=0, atol=1e-12)
    if name == "bradley_terry":  # unless rewards are pulled towards 0
        centred = find_loss(name, {"centre_weight": 0.1}).function
        assert (centred(CHOSEN + shift, REJECTED + shift) - centred(CHOSEN, REJECTED)).abs().min() > 0.1


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_order_of_pairs_changes_nothing_and_that_within_a_pair_does(name):
    margin = [MARGIN] if LOSSES[name].inputs else []
    loss = LOSSES[name].function
    want = loss(CHOSEN, REJECTED, *margin)
    torch.testing.assert_close(loss(CHOSEN.flip(0), REJECTED.flip(0), *(m.flip(0) for m in margin)), want.flip(0))
    assert (loss(REJECTED, CHOSEN, *margin) - want).abs().min() > 0.1


def test_where_the_losses_of_pairs_are_the_same():
    """Without a margin, and with margins of 1."""
    plain = LOSSES["bradley_terry"].function(CHOSEN, REJECTED)
    assert torch.equal(LOSSES["margin_bradley_terry"].function(CHOSEN, REJECTED, numbers(0, 0)), plain)
    assert torch.equal(LOSSES["scaled_bradley_terry"].function(CHOSEN, REJECTED, numbers(1, 1)), plain)


def test_the_slope_of_bradley_terry():
    """−σ(−1.5) for the chosen reward, the opposite for the rejected one."""
    chosen, rejected = CHOSEN[:1].clone().requires_grad_(), REJECTED[:1].clone().requires_grad_()
    LOSSES["bradley_terry"].function(chosen, rejected).sum().backward()
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-sigmoid(-1.5), sigmoid(-1.5)), abs=1e-12)


def test_rewards_far_apart_stay_finite():
    far = numbers(1e4, -1e4)
    for name in PAIR_LOSSES:
        margin = [MARGIN] if LOSSES[name].inputs else []
        assert LOSSES[name].function(far, far.flip(0), *margin).isfinite().all()
    assert LOSSES["process"].function(far, torch.tensor([False, True])).tolist() == [1e4, 1e4]


def test_the_rewards_that_noisy_pairs_ask_for():
    """A pair that comes in this order 3 times of 4 has r_w − r_l = log 3, whatever its strength."""
    for name in ("bradley_terry", "scaled_bradley_terry"):
        gap = numbers(math.log(3)).requires_grad_()
        margin = [numbers(2.0)] if LOSSES[name].inputs else []
        loss = LOSSES[name].function
        (0.75 * loss(gap, numbers(0), *margin) + 0.25 * loss(numbers(0), gap, *margin)).sum().backward()
        assert gap.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("text", ["bradley_terry+0.1*sft", "dpo+bradley_terry", "regression+sft"])
def test_losses_of_rewards_and_of_log_probs_are_not_added(text):
    with pytest.raises(UserError, match=r"adds (a loss of a reward model|losses of)"):
        find_sum(text)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bradley_terry", {"beta": 0.1}, "no parameter 'beta'"),
        ("bradley_terry", {"centre_weight": -1.0}, "0 or more"),
        ("margin_bradley_terry", {"scale": -1.0}, "0 or more"),
        ("scaled_bradley_terry", {"scale": 1.0}, "takes no parameters"),
    ],
)
def test_parameters_that_they_do_not_have(name, options, said):
    with pytest.raises(UserError, match=said):
        find_loss(name, options)


def test_what_they_train_on():
    wants = {name: find_sum(name).selection for name, row in LOSSES.items() if row.output == "rewards"}
    assert wants == {
        "bradley_terry": "pairs",
        "margin_bradley_terry": "margins",
        "scaled_bradley_terry": "margins",
        "regression": "rated",
        "process": "steps",
    }
