"""The limit of optimism: by hand, and in a world of three responses in which the loss has a minimum below it only."""

import numpy as np
import pytest
import torch

from tokenq.core.losses import find_loss, find_sum
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.rollout.optimism import Optimism, beyond_limit, optimism_of

pytestmark = pytest.mark.integration

A, B, C = range(3)
PAIRS = [(A, B)] * 3 + [(B, A)] + [(A, C)] * 3 + [(C, A)] + [(B, C)] * 3 + [(C, B)]
"""(chosen, rejected): every two compared four times. C wins 2 of its 8, and all 12 pairs are calibrated on it."""


def group(prompt, chosen, rejected, calibration=None):
    def response(ids, role):
        return TokenResponse(np.array([ids, 2], np.int32), np.ones(2, np.bool_), True, role)

    sides = [response(chosen, "chosen"), response(rejected, "rejected")]
    sides += [] if calibration is None else [response(calibration, "calibration")]
    return TokenGroup(np.array([prompt], np.int32), tuple(sides), True, "here")


@pytest.mark.parametrize(
    ("loss", "parameters", "found"),
    [
        ("vpo_online", {"alpha": 0.2, "beta": 0.5}, Optimism(0.2, ("chosen",))),
        ("vpo_online", {"alpha": 0.2, "calibration": "both"}, Optimism(0.2, ("chosen", "rejected"))),
        ("selm", {"alpha": 0.2, "beta": 0.5}, Optimism(0.2, ("calibration",))),
        ("xpo", {"alpha": 0.2, "beta": 0.5}, Optimism(0.4, ("calibration",))),
        ("xpo", {"alpha": 0.0}, None),
        ("vpo_offline", {}, None),
        ("dpo", {}, None),
        ("selm+0.1*sft", {}, None),
    ],
)
def test_what_a_loss_lowers(loss, parameters, found):
    assert optimism_of(find_sum(loss, parameters)) == found


def test_wins_against_calibrations_by_hand():
    """Prompt 7: C wins 2 and calibrates 12. Prompt 8: its response wins 1 of 1. Prompt 9: it never wins."""
    pairs = [group(7, chosen, rejected, C) for chosen, rejected in PAIRS]
    others = [group(8, 5, 6, 5), group(9, 5, 6, 4)]
    assert beyond_limit(pairs, Optimism(0.15, ("calibration",))) == (0, 1)
    assert beyond_limit(pairs, Optimism(0.20, ("calibration",))) == (1, 1)
    assert beyond_limit(pairs + others, Optimism(0.15, ("calibration",))) == (1, 3)
    assert beyond_limit(others, Optimism(1e-9, ("calibration",))) == (1, 2)
    assert beyond_limit([group(1, 5, 6)], Optimism(0.1, ("calibration",))) == (0, 1)  # an earlier pair has none
    # Half of each pair's calibration is on either side: A wins 6 and stands in 8, B 4 and C 2.
    assert beyond_limit(pairs, Optimism(0.4, ("chosen", "rejected"))) == (0, 1)  # 2 > 0.2 · 8
    assert beyond_limit(pairs, Optimism(0.6, ("chosen", "rejected"))) == (1, 1)  # 2 ≤ 0.3 · 8


def total(logits, loss, alpha):
    """The package's loss over all pairs of a policy over A, B and C against a uniform reference."""
    logps, reference = logits.log_softmax(0), torch.full((3,), -np.log(3.0), dtype=torch.float64)
    rows = torch.tensor(PAIRS)

    def sides(values):
        found = [TokenLogps(values[rows[:, k]][:, None], torch.ones(len(rows), 1, dtype=torch.bool)) for k in (0, 1)]
        return PairLogps(*found)

    function = find_loss(loss, {"beta": 0.5, "alpha": alpha}).function
    calibration = (logps - reference)[C].expand(len(rows))
    return function(sides(logps), sides(reference), calibration).sum()


@pytest.mark.parametrize(("loss", "scale"), [("selm", 1.0), ("xpo", 0.5)])
def test_the_loss_has_a_minimum_below_the_limit_and_none_beyond(loss, scale):
    """The limit is a = 2/12. Below it the gradient vanishes at a finite policy; beyond it the loss falls without end.

    Far out, a nat of log π(C) changes the loss by −β (12 a − 2): −0.2 at a = 0.2 and β = 0.5.
    """
    ended = {}
    for weight in (0.1, 0.2):
        logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS(
            [logits], max_iter=300, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure(logits=logits, search=search, weight=weight):
            search.zero_grad()
            value = total(logits, loss, weight * scale)
            value.backward()
            return value

        search.step(closure)
        ended[weight] = logits.detach()
        gradient = torch.autograd.grad(total(logits, loss, weight * scale), logits)[0]
        at_rest = gradient.abs().max() < 1e-8 and logits.detach().log_softmax(0)[C] > -20
        beyond, _ = beyond_limit([group(7, *pair, C) for pair in PAIRS], optimism_of(bound(loss, weight * scale)))
        assert at_rest == (beyond == 0)
    falls = [ended[0.1] - torch.tensor([0, 0, nats], dtype=torch.float64) for nats in (200.0, 201.0)]
    steep, flat = (
        total(falls[1], loss, weight * scale) - total(falls[0], loss, weight * scale) for weight in (0.2, 0.1)
    )
    assert float(steep) == pytest.approx(-0.5 * (12 * 0.2 - 2))
    assert float(flat) == pytest.approx(-0.5 * (12 * 0.1 - 2))  # uphill


def bound(loss, alpha):
    return find_sum(loss, {"beta": 0.5, "alpha": alpha})
