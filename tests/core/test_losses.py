"""Losses: numbers derived by hand, one set for every row of the table."""

import math

import numpy as np
import pytest
import torch
from loss_builders import called, rows, sigmoid, softplus, swapped, values

from tokenq.core.losses import LOSSES, find_loss
from tokenq.core.losses.inputs import candidates
from tokenq.core.losses.token_level import turn_weights
from tokenq.core.packing import pack
from tokenq.core.tensors import PairLogps, PairValues, TokenLogps
from tokenq.records.examples import TokenGroup, TokenResponse

# One pair. Chosen, 2 tokens: log π = −1 − 2 = −3, log π_ref = −2 − 3 = −5: log-ratio 2, or 1 a token.
# Rejected, 4 tokens: log π = 4 · (−1.5) = −6, log π_ref = 4 · (−1.25) = −5: log-ratio −1, or −0.25 a token.
# So d_w = 2, d_l = −1, h = 3 and, averaged per token, h̄ = 1 − (−0.25) = 1.25. With β = 0.5: r_w = 1, r_l = −0.5,
# β h = 1.5. Swapped: d_w = −1, d_l = 2, h = −3, r_w = −0.5, r_l = 1, β h = −1.5.
POLICY = PairLogps(rows([-1.0, -2.0]), rows([-1.5] * 4))
REFERENCE = PairLogps(rows([-2.0, -3.0]), rows([-1.25] * 4))
# For losses without a reference: mean log-probs −1.5 and −2, sums −3 and −8.
FREE = PairLogps(rows([-1.0, -2.0]), rows([-2.0] * 4))

A = 0.20141327798275246  # log(1 + e^−1.5); the other way round it is 1.5 more
E = math.e
HALF = {"beta": 0.5}
LOG_2 = math.log(2)

# log odds −1.5 − log(1 − e^−1.5) = −1.24752 and −2 − log(1 − e^−2) = −1.85459.
ODDS = 0.5 - math.log(1 - math.exp(-1.5)) + math.log(1 - math.exp(-2))

KLS = values([0.25, 0.25], [0.375] * 4)  # sums 0.5 and 1.5
STEPS = values([1.0, 0.0], [0.0, 1.0, 1.0, 0.0])
OVERLAPS = values([-1.0, -1.0], [-1.25] * 4)
CALIBRATION = torch.tensor([2.0], dtype=torch.float64)

GOLDEN = {
    # name: (parameters, inputs, loss, loss with chosen and rejected swapped)
    "dpo": (HALF, (), A, 1.5 + A),
    # β h̄ = 0.625.
    "sigmoid_norm": (HALF, (), softplus(-0.625), softplus(0.625)),
    # 0.8 a + 0.2 (1.5 + a) = a + 0.3, and 0.8 (1.5 + a) + 0.2 a = a + 1.2.
    "cdpo": (HALF | {"label_smoothing": 0.2}, (), A + 0.3, A + 1.2),
    # [0.8 a − 0.2 (1.5 + a)] / 0.6 = a − 0.5, and [0.8 (1.5 + a) − 0.2 a] / 0.6 = a + 2.
    "robust": (HALF | {"label_smoothing": 0.2}, (), A - 0.5, A + 2.0),
    # 1/(2 · 0.5) = 1: (1.25 − 1)² and (−1.25 − 1)².
    "ipo": (HALF, (), 0.0625, 5.0625),
    # (3 − 1)² and (−3 − 1)².
    "ipo_sum": (HALF, (), 4.0, 16.0),
    # max(0, 1 − 1.5) and 1 + 1.5.
    "hinge": (HALF, (), 0.0, 2.5),
    # q = σ(1.5) = 0.81757, log q = −a, log(1 − q) = −1.5 − a: KL to (0.8, 0.2), then with q = 1 − 0.81757.
    "exo": (
        HALF | {"label_smoothing": 0.2},
        (),
        sigmoid(1.5) * (-A - math.log(0.8)) + sigmoid(-1.5) * (-1.5 - A - math.log(0.2)),
        sigmoid(-1.5) * (-1.5 - A - math.log(0.8)) + sigmoid(1.5) * (-A - math.log(0.2)),
    ),
    # x = ±1.5, x/τ = ±1: σ(1) = 0.73106 of the exponential part, 0.26894 of the logistic one; swapped the reverse.
    "discopop": (
        HALF | {"tau": 1.5},
        (),
        sigmoid(-1) * A + sigmoid(1) * math.exp(-1.5),
        sigmoid(1) * (1.5 + A) + sigmoid(-1) * math.exp(1.5),
    ),
    # d_w = 2 costs nothing; d_w = −1 costs 2: 0.5 (−3 − 2) = −2.5.
    "dpop": (HALF | {"penalty": 2.0}, (), A, softplus(2.5)),
    # −log σ(h) with h = ±3, and (2 − 1)² + (−1 + 1)² = 1; swapped (−1 − 1)² + (2 + 1)² = 13.
    "cal_dpo": (HALF, (), softplus(-3) + 1, softplus(3) + 13),
    "nca": (
        HALF,
        (),
        softplus(-1) + softplus(1) / 2 + softplus(-0.5) / 2,
        softplus(0.5) + softplus(-0.5) / 2 + softplus(1) / 2,
    ),
    # The two squares of cal_dpo alone.
    "sppo": (HALF, (), 1.0, 13.0),
    "apo_zero": (HALF, (), 1 - sigmoid(1) + sigmoid(-0.5), 1 - sigmoid(-0.5) + sigmoid(1)),
    "apo_down": (HALF, (), sigmoid(1) + 1 - sigmoid(1.5), sigmoid(-0.5) + 1 - sigmoid(-1.5)),
    "bco_pair": (HALF, (), softplus(-1) + softplus(-0.5), softplus(0.5) + softplus(1)),
    # |y_w| − |y_l| = −2: 1.5 − 0.5; swapped −1.5 + 0.5.
    "r_dpo": (HALF | {"alpha": 0.25}, (), softplus(-1), softplus(1)),
    # Two of the four rejected tokens lie behind the shorter length: −0.5 − 0.5 · 0.5 = −0.75, h = 2.75.
    "ld_dpo": (HALF | {"alpha": 0.5}, (), softplus(-1.375), softplus(1.375)),
    # −1/u: −e^−2 and −e: β (e − e^−2).
    "fdpo_forward_kl": (HALF, (), softplus(-0.5 * (E - E**-2)), softplus(0.5 * (E - E**-2))),
    # log(2u/(1 + u)) = log 2 + log σ(d): β (log σ(2) − log σ(−1)) = β (log(1 + e) − log(1 + e^−2)).
    "fdpo_js": (
        HALF,
        (),
        softplus(-0.5 * (softplus(1) - softplus(-2))),
        softplus(0.5 * (softplus(1) - softplus(-2))),
    ),
    # (1 − u^−½)/½: 2 (1 − e^−1) and 2 (1 − e^½): β times the difference is e^½ − e^−1.
    "fdpo_alpha": (HALF | {"alpha": 0.5}, (), softplus(-(E**0.5 - E**-1)), softplus(E**0.5 - E**-1)),
    # 2 (−1.5 + 2) − 0.5 = 0.5; swapped −1 − 0.5.
    "simpo": ({"beta": 2.0, "gamma": 0.5}, (), softplus(-0.5), softplus(1.5)),
    # The mean log-prob of whichever is chosen, and log odds that are 0.60707 apart.
    "orpo": (
        {"odds_weight": 0.5},
        (),
        1.5 + 0.5 * softplus(-ODDS),
        2.0 + 0.5 * softplus(ODDS),
    ),
    # β (−3 + 8) = 2.5 and the mean log-prob of whichever is chosen.
    "cpo": (HALF | {"sft_weight": 2.0}, (), softplus(-2.5) + 3.0, softplus(2.5) + 4.0),
    # One pair has no other to be sorted with: DPO.
    "aot": (HALF, (), A, 1.5 + A),
    "aot_unpaired": (HALF, (), A, 1.5 + A),
    # 3 − (1.5 − 0.5) = 2; swapped −3 − (0.5 − 1.5) = −2.
    "tdpo1": (HALF, (KLS,), softplus(-1), softplus(1)),
    # 3 − 0.5 (1.5 − 0.5) = 2.5.
    "tdpo2": (HALF | {"alpha": 0.5}, (KLS,), softplus(-1.25), softplus(1.25)),
    # First token of the chosen, second and third of the rejected one: 1 + 0.5.
    "step_dpo": (HALF, (STEPS,), softplus(-0.75), softplus(0.75)),
    # Of one turn: DPO.
    "dmpo": (HALF, (), A, 1.5 + A),
    # Two steps that both sides have, ρ 1 against −0.25 in each.
    "d3po": (HALF, (), softplus(-0.625), softplus(0.625)),
    # Weights exp((0 − 1)/2) and exp(−0.25).
    "wpo": (HALF, (OVERLAPS,), math.exp(-0.75) * A, math.exp(-0.75) * (1.5 + A)),
    # α β d = 0.5 · 0.5 · 2.
    "vpo_offline": (HALF | {"alpha": 0.5}, (CALIBRATION,), A - 0.5, 1.5 + A - 0.5),
    "vpo_online": (HALF | {"alpha": 0.5}, (CALIBRATION,), A + 0.5, 1.5 + A + 0.5),
    "selm": (HALF | {"alpha": 0.5}, (CALIBRATION,), A + 0.5, 1.5 + A + 0.5),
    # α d = 0.5 · 2, without β.
    "xpo": (HALF | {"alpha": 0.5}, (CALIBRATION,), A + 1.0, 1.5 + A + 1.0),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers_of_a_pair(name):
    parameters, inputs, forward, backward = GOLDEN[name]
    loss = find_loss(name, parameters)
    policy = POLICY if loss.reference else FREE
    there = called(name, policy, REFERENCE, *inputs, loss=loss)
    back = called(name, swapped(policy), swapped(REFERENCE), *map(swapped, inputs), loss=loss)
    assert there.item() == pytest.approx(forward, abs=1e-9)
    assert back.item() == pytest.approx(backward, abs=1e-9)


# The same responses with labels: d = 2 and −1, and a third with d = 0.5.
SINGLE = rows([-1.0, -2.0], [-1.5] * 4, [-1.0])
SINGLE_REFERENCE = rows([-2.0, -3.0], [-1.25] * 4, [-1.5])
LABELS = torch.tensor([True, False, True])


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_kto_by_hand():
    """z₀ = (1 + 0)/2 = 0.5, β = 0.5: gains 0.75, −0.75 and 0; λ_D = 2, λ_U = 4."""
    loss = find_loss("kto", HALF | {"desirable_weight": 2.0, "undesirable_weight": 4.0})
    got = loss.function(SINGLE, SINGLE_REFERENCE, LABELS, numbers(1.0, 0.0))
    assert got.tolist() == pytest.approx([2 * sigmoid(-0.75), 4 * sigmoid(-0.75), 1.0], abs=1e-12)
    below = loss.function(SINGLE, SINGLE_REFERENCE, LABELS, numbers(-1.0, 0.0))  # a negative estimate counts as 0
    without = loss.function(SINGLE, SINGLE_REFERENCE, LABELS, numbers())
    assert below.tolist() == without.tolist()
    assert without.tolist() == pytest.approx([2 * sigmoid(-1), 4 * sigmoid(-0.5), 2 * sigmoid(-0.25)], abs=1e-12)


def test_bco_by_hand():
    """Rewards 1, −0.5, 0.25: desirable ones 0.625 on average, the other −0.5, so δ = 0.0625."""
    got = find_loss("bco", HALF).function(SINGLE, SINGLE_REFERENCE, LABELS)
    assert got.tolist() == pytest.approx([softplus(-0.9375), softplus(-0.5625), softplus(-0.1875)], abs=1e-12)
    alone = find_loss("bco", HALF).function(SINGLE, SINGLE_REFERENCE, torch.tensor([True] * 3))  # δ = 0.25
    assert alone.tolist() == pytest.approx([softplus(-0.75), softplus(0.75), LOG_2], abs=1e-12)


def test_cross_entropy_by_hand():
    got = find_loss("ce", HALF).function(SINGLE, SINGLE_REFERENCE, LABELS)
    assert got.tolist() == pytest.approx([softplus(-1), softplus(-0.5), softplus(-0.25)], abs=1e-12)


def test_cross_entropy_with_outcomes_by_hand():
    """Rewards 1, −0.5, 0.25 and outcomes 1, ¼, ½; of labels it is `ce`, to the last bit."""
    row, outcomes = find_loss("implicit_prm", HALF), numbers(1.0, 0.25, 0.5)
    got = row.function(SINGLE, SINGLE_REFERENCE, outcomes)
    parts = [softplus(-1), softplus(0.5) / 4 + 3 * softplus(-0.5) / 4, (softplus(-0.25) + softplus(0.25)) / 2]
    assert got.tolist() == pytest.approx(parts, abs=1e-12)
    labels = find_loss("ce", HALF).function(SINGLE, SINGLE_REFERENCE, LABELS)
    assert row.function(SINGLE, SINGLE_REFERENCE, LABELS.double()).tolist() == labels.tolist()


def test_the_gradient_of_cross_entropy_is_the_error_of_the_probability():
    """β (σ(r) − o) at every own token of φ, and at no other."""
    logps = SINGLE.logps.clone().requires_grad_()
    outcomes = numbers(1.0, 0.25, 0.5)
    find_loss("implicit_prm", HALF).function(
        TokenLogps(logps, SINGLE.mask), SINGLE_REFERENCE, outcomes
    ).sum().backward()
    for place, (reward, outcome) in enumerate(((1.0, 1.0), (-0.5, 0.25), (0.25, 0.5))):
        want = 0.5 * (sigmoid(reward) - outcome) * SINGLE.mask[place].double()
        assert logps.grad[place].tolist() == pytest.approx(want.tolist(), abs=1e-12)


def test_plackett_luce_by_hand():
    """Rewards 1, 0.25, −0.5 in the order of the ranking; then two of them, which is DPO with β h = 1.5."""
    rankings = torch.tensor([[0, 2, 1], [0, 1, -1]])
    got = find_loss("plackett_luce", HALF).function(SINGLE, SINGLE_REFERENCE, rankings)
    three = math.log(E + E**0.25 + E**-0.5) - 1 + math.log(E**0.25 + E**-0.5) - 0.25
    assert got.tolist() == pytest.approx([three, A], abs=1e-12)


def test_steerlm_by_hand():
    """Ratios 2, 1, 1 of the responses to one prompt, so b = ½, ¼, ¼; w = ½, ½, 0: ½ log 2. Another's is alone: 0.

    The gradient of a token of response i is b_i − w_i, here 0, −¼, ¼ and 0.
    """
    policy = rows([-1.0 + LOG_2, -1.0], [-2.0], [-1.0] * 4, [-3.0])
    old = rows([-1.0, -1.0], [-2.0], [-1.0] * 4, [-1.0]).logps
    weights = rows([0.5, 0.5], [0.5], [0.0] * 4, [1.0]).logps
    candidates = torch.tensor([[0, 1, 2], [3, -1, -1]])
    logps = policy.logps.clone().requires_grad_()
    got = find_loss("steerlm").function(TokenLogps(logps, policy.mask), old, weights, candidates)
    assert got.tolist() == pytest.approx([0.5 * LOG_2, 0.0], abs=1e-12)
    got.sum().backward()
    slopes = torch.tensor([0.0, -0.25, 0.25, 0.0], dtype=torch.float64)[:, None] * policy.mask
    torch.testing.assert_close(logps.grad, slopes, rtol=0, atol=1e-12)


def test_candidates_are_the_responses_of_a_group():
    """Groups of two, one and three responses: three rows, −1 behind the last of each."""
    groups = [
        TokenGroup(np.array([1]), (TokenResponse(np.array([2, 3]), np.ones(2, bool), True),) * count, False, "here")
        for count in (2, 1, 3)
    ]
    assert candidates(pack(groups).actions).tolist() == [[0, 1, -1], [2, -1, -1], [3, 4, 5]]


def test_sft_is_the_sum_over_the_own_tokens():
    """−(−1 − 2) = 3 and −4 · (−1.5) = 6; a token outside the mask counts nothing."""
    policy = rows([-1.0, -2.0], [-1.5] * 4)
    assert LOSSES["sft"].function(policy).tolist() == [3.0, 6.0]
    without_second = TokenLogps(policy.logps, policy.mask & torch.tensor([True, False, True, True]))
    assert LOSSES["sft"].function(without_second).tolist() == [1.0, 4.5]


def test_the_golden_numbers_cover_the_table():
    """A new loss needs numbers of its own; `dro`, policy gradients and reward models have files of their own."""
    elsewhere = {name for name, row in LOSSES.items() if row.unit in ("rollouts", "actions")}
    policies = {name for name, row in LOSSES.items() if row.output == "logps"} - elsewhere
    assert policies == {*GOLDEN, "sft", "kto", "bco", "ce", "implicit_prm", "dro", "plackett_luce", "steerlm"}


def test_aot_compares_margins_of_one_rank():
    """Margins of the policy 3 and 1, of the reference 0 and 2: the first is compared with 2, the second with 0."""
    policy = PairLogps(rows([-1.0], [-3.0]), rows([-4.0], [-4.0]))
    reference = PairLogps(rows([-2.0], [-1.0]), rows([-2.0], [-3.0]))
    loss = find_loss("aot", HALF).function
    assert loss(policy, reference).tolist() == pytest.approx([softplus(-0.5)] * 2, abs=1e-12)
    # Log-ratios: chosen 1 and −2, rejected −2 and −1; of one rank 1 and −1, −2 and −2.
    unpaired = find_loss("aot_unpaired", HALF).function
    assert unpaired(policy, reference).tolist() == pytest.approx([softplus(-1), LOG_2], abs=1e-12)


def test_the_first_divergence_of_tdpo2_has_no_gradient():
    sides = [KLS.chosen.clone().requires_grad_(), KLS.rejected.clone().requires_grad_()]
    for name, chosen in (("tdpo1", True), ("tdpo2", False)):
        value = find_loss(name, HALF).function(POLICY, REFERENCE, PairValues(*sides)).sum()
        grads = torch.autograd.grad(value, sides, allow_unused=True)
        assert (grads[0] is not None) == chosen
        # The rejected one's: β σ(−x) times its weight (1, ½), more divergence being worse.
        x, weight = (1.0, 1.0) if chosen else (1.25, 0.5)
        assert grads[1][0].tolist() == pytest.approx([0.5 * weight * sigmoid(-x)] * 4, abs=1e-12)


def test_the_weights_of_wpo_have_no_gradient():
    """Its gradient is DPO's times the weights, e^−0.75."""
    chosen = POLICY.chosen.logps.clone().requires_grad_()
    policy = PairLogps(TokenLogps(chosen, POLICY.chosen.mask), POLICY.rejected)
    (own,) = torch.autograd.grad(find_loss("wpo", HALF).function(policy, REFERENCE, OVERLAPS).sum(), chosen)
    (dpo,) = torch.autograd.grad(find_loss("dpo", HALF).function(policy, REFERENCE).sum(), chosen)
    torch.testing.assert_close(own, math.exp(-0.75) * dpo, rtol=0, atol=1e-14)


def test_the_slope_of_dpo():
    """∂/∂ log π(chosen token) = −β σ(−β h) = −0.5 · 0.18242552 (and + for the rejected), the same for each token."""
    chosen = POLICY.chosen.logps.clone().requires_grad_()
    rejected = POLICY.rejected.logps.clone().requires_grad_()
    policy = PairLogps(TokenLogps(chosen, POLICY.chosen.mask), TokenLogps(rejected, POLICY.rejected.mask))
    find_loss("dpo", {"beta": 0.5}).function(policy, REFERENCE).sum().backward()
    slope = 0.5 * 0.18242552380635635
    assert chosen.grad[0].tolist() == pytest.approx([-slope, -slope, 0, 0], abs=1e-12)
    assert rejected.grad[0].tolist() == pytest.approx([slope] * 4, abs=1e-12)


def test_vpo_without_a_weight_is_dpo_to_the_bit():
    for name in ("vpo_offline", "vpo_online", "selm", "xpo"):
        got = find_loss(name, {"alpha": 0.0}).function(POLICY, REFERENCE, CALIBRATION)
        assert torch.equal(got, find_loss("dpo").function(POLICY, REFERENCE))


def test_odds_of_certain_responses_are_finite():
    """p = 1 in rounding: the odds are infinite, the loss must not be."""
    certain = rows([0.0, 0.0], [-1e-20], [-60.0])
    pairs = PairLogps(certain, rows([-1.0], [0.0], [0.0]))
    assert find_loss("orpo").function(pairs).isfinite().all()


def test_dmpo_weighs_turns_by_each_side_s_own_number():
    """γ = ½. Of two turns the second weighs ½ (1 − ½) / (1 − ¼) = ⅓, of three ½ · ¾ / ⅞ = 3/7 and ¼ · ½ / ⅞ = 1/7."""
    chosen = torch.tensor([[True, True, False, True, False]])
    rejected = torch.tensor([[True, False, True, False, True]])
    assert turn_weights(chosen, 0.5).tolist() == [pytest.approx([1, 1, 0, 1 / 3, 0])]
    assert turn_weights(rejected, 0.5).tolist() == [pytest.approx([1, 0, 3 / 7, 0, 1 / 7])]
    ones = torch.ones(1, 5, dtype=torch.float64)
    policy = PairLogps(TokenLogps(-ones * chosen, chosen), TokenLogps(-3 * ones * rejected, rejected))
    zero = PairLogps(TokenLogps(0 * ones, chosen), TokenLogps(0 * ones, rejected))
    loss = find_loss("dmpo", {"beta": 0.5, "gamma": 0.5}).function(policy, zero)
    h = -(1 + 1 + 1 / 3) + 3 * (1 + 3 / 7 + 1 / 7)
    assert loss.item() == pytest.approx(softplus(-0.5 * h), abs=1e-12)


def test_d3po_compares_step_by_step_within_the_limits_of_the_ratio():
    """ρ = (log 1.2, 0) against (log 0.5, log 1.05): limits of 1 ± 0.1 leave log 1.1, 0 and log 0.9, log 1.05.

    The mean of two comparisons, and not one comparison of sums.
    """
    policy = PairLogps(rows([math.log(1.2), 0.0]), rows([math.log(0.5), math.log(1.05)]))
    reference = PairLogps(rows([0.0, 0.0]), rows([0.0, 0.0]))
    chosen = policy.chosen.logps.requires_grad_()
    free = called("d3po", policy, reference, loss=find_loss("d3po", {"beta": 2.0}))
    expected = (softplus(-2 * math.log(1.2 / 0.5)) + softplus(2 * math.log(1.05))) / 2
    assert free.item() == pytest.approx(expected, abs=1e-12)
    cut = called("d3po", policy, reference, loss=find_loss("d3po", {"beta": 2.0, "clip": 0.1}))
    expected = (softplus(-2 * math.log(1.1 / 0.9)) + softplus(2 * math.log(1.05))) / 2
    assert cut.item() == pytest.approx(expected, abs=1e-12)
    cut.sum().backward()
    assert chosen.grad[0, 0] == 0  # beyond its limit
    assert chosen.grad[0, 1] < 0
