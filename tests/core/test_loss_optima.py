"""Stated optima: where a loss is stationary when a pair comes in its order p of the time, and flipped otherwise."""

import math

import pytest
import torch
from loss_builders import called, rows

from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairLogps, PairValues, TokenLogps

BETA = 0.4


def logit(p):
    return math.log(p / (1 - p))


def anchored(one, other):
    """(β d_1, β d_2) of the optimum."""
    return lambda p: (one(p), other(p))


def of_margin(margin):
    """β h of the optimum; what the two share is free."""
    return lambda p: (margin(p) + 0.7, 0.7)


OPTIMA = {
    "dpo": ({}, of_margin(logit)),
    "sigmoid_norm": ({}, of_margin(logit)),
    # A label is right 1 − ε of the time: σ(β h) = (1 − ε) p + ε (1 − p).
    "cdpo": ({"label_smoothing": 0.2}, of_margin(lambda p: logit(0.8 * p + 0.2 * (1 - p)))),
    # The noise is taken off: p = (1 − ε) q + ε (1 − q) is what is seen of q.
    "robust": ({"label_smoothing": 0.2}, of_margin(lambda p: logit((p - 0.2) / 0.6))),
    # Least squares: h = (2p − 1)/(2β).
    "ipo_sum": ({}, of_margin(lambda p: (2 * p - 1) / 2)),
    "ipo": ({}, of_margin(lambda p: (2 * p - 1) / 2)),
    "exo": ({"label_smoothing": 0.1}, of_margin(lambda p: (2 * p - 1) * math.log(9))),
    # exp(r) = 2p and 2 (1 − p): their ratio is Bradley-Terry's.
    "nca": ({}, anchored(lambda p: math.log(2 * p), lambda p: math.log(2 * (1 - p)))),
    "sppo": ({}, anchored(lambda p: p - 0.5, lambda p: 0.5 - p)),
    # Each side by itself a classifier: twice the margin of Bradley-Terry.
    "bco_pair": ({}, anchored(logit, lambda p: -logit(p))),
}


def slopes(name, parameters, p, ratios):
    """Return the gradient at (d_1, d_2) of p L(1 ≻ 2) + (1 − p) L(2 ≻ 1), responses of one token."""
    d = torch.tensor(ratios, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    one, other = (TokenLogps(x.reshape(1, 1) - 2.0, mask) for x in d)
    reference = PairLogps(rows([-2.0], width=1), rows([-2.0], width=1))
    loss = find_loss(name, {"beta": BETA, **parameters})
    value = p * called(name, PairLogps(one, other), reference, loss=loss)
    value = value + (1 - p) * called(name, PairLogps(other, one), reference, loss=loss)
    return torch.autograd.grad(value.sum(), d)[0].tolist()


@pytest.mark.parametrize("p", [0.5, 0.7, 0.75])
@pytest.mark.parametrize("name", OPTIMA)
def test_a_loss_is_stationary_at_its_stated_optimum(name, p):
    parameters, optimum = OPTIMA[name]
    best = [r / BETA for r in optimum(p)]
    assert slopes(name, parameters, p, best) == pytest.approx([0.0, 0.0], abs=1e-12)
    # And is one: beyond it on either side the slope leads back.
    for step in (-0.3, 0.3):
        there = slopes(name, parameters, p, [best[0] + step, best[1]])
        assert there[0] * step > 1e-4


def test_cal_dpo_without_noise_pins_both_rewards_near_a_half():
    """Where −log σ(h) hardly slopes, the squares decide: β d_w = ½ and β d_l = −½, so h = 1/β."""
    found = slopes("cal_dpo", {"beta": 0.01}, 1.0, [50.0, -50.0])
    assert found == pytest.approx([0.0, 0.0], abs=1e-12)


def test_pairs_that_the_policy_writes_alike_leave_the_optimum_of_wpo_where_it_is():
    """Weights depend on the pair and not on its order, so each pair is stationary where DPO's is."""
    d = torch.tensor([logit(0.7) / BETA, 0.0], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    one, other = (TokenLogps(x.reshape(1, 1) - 2.0, mask) for x in d)
    reference = PairLogps(rows([-2.0], width=1), rows([-2.0], width=1))
    overlaps = [torch.tensor([[-0.4]], dtype=torch.float64), torch.tensor([[-1.1]], dtype=torch.float64)]
    loss = find_loss("wpo", {"beta": BETA}).function
    value = 0.7 * loss(PairLogps(one, other), reference, PairValues(*overlaps))
    value = value + 0.3 * loss(PairLogps(other, one), reference, PairValues(*overlaps[::-1]))
    assert torch.autograd.grad(value.sum(), d)[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def of_labels(name, p, ratio, **parameters):
    """Return the slope at d of p L(desirable) + (1 − p) L(undesirable) of one response, nothing mismatched."""
    d = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    policy = TokenLogps(d.reshape(1, 1) - 2.0, torch.ones(1, 1, dtype=torch.bool))
    loss = find_loss(name, {"beta": BETA, **parameters})
    inputs = [torch.zeros(0, dtype=torch.float64)] if "mismatched" in loss.inputs else []
    both = [loss.function(policy, rows([-2.0], width=1), torch.tensor([label]), *inputs) for label in (True, False)]
    return torch.autograd.grad((p * both[0] + (1 - p) * both[1]).sum(), d)[0].item()


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
def test_ce_reads_how_often_a_response_is_right(p):
    """β d = logit p."""
    assert of_labels("ce", p, logit(p) / BETA) == pytest.approx(0.0, abs=1e-12)
    assert of_labels("ce", p, logit(p) / BETA + 1) > 1e-3


@pytest.mark.parametrize("ratio", [-9.0, -0.5, 0.0, 4.0])
def test_kto_and_apo_zero_have_an_order_for_an_optimum(ratio):
    """Their slope has the sign of 1 − 2p wherever the response stands: up without end if it is mostly liked."""
    assert of_labels("kto", 0.7, ratio) < 0 < of_labels("kto", 0.3, ratio)
    # Three undesirable in ten weigh as much as the seven desirable ones where they count 7/3 each.
    assert of_labels("kto", 0.7, ratio, undesirable_weight=7 / 3) == pytest.approx(0.0, abs=1e-12)
    up, down = slopes("apo_zero", {}, 0.7, [ratio, ratio])
    assert up < 0 < down


@pytest.mark.parametrize("p", [0.55, 0.7])
def test_cal_dpo_finds_win_rates_as_sppo_does(p):
    """At β d = ±(p − ½) the squares have no slope, and what −log σ(h) leaves, 1 − p, moves d by less than ¼ nat."""
    best = [(p - 0.5) / 1e-3, (0.5 - p) / 1e-3]
    assert slopes("sppo", {"beta": 1e-3}, p, best) == pytest.approx([0.0, 0.0], abs=1e-9)
    assert slopes("cal_dpo", {"beta": 1e-3}, p, best) == pytest.approx([1 - p, p - 1], abs=1e-9)
    assert slopes("cal_dpo", {"beta": 1e-3}, p, [best[0] - 0.25, best[1] + 0.25])[0] < 0
