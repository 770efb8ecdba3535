"""SteerLM 2.0: levels by hand, by exact binomial sums and by scipy's distribution; weights by Bayes' rule."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta
from torch.autograd import gradcheck

from tokenq.core.steerlm import (
    attribute_logps,
    distance,
    effective_samples,
    level_logps,
    policy_weights,
    target_weights,
)


def chances(rating, **options):
    return level_logps(torch.tensor(rating, dtype=torch.float64), **options).exp().tolist()


def test_levels_by_hand():
    """Beta(1, 1) is uniform; Beta(2, 1) has F(x) = x², so four levels have 1, 3, 5 and 7 sixteenths."""
    assert chances(2.0, concentration=2.0) == pytest.approx([0.2] * 5, abs=1e-14)
    assert chances(2.0, levels=4, concentration=3.0) == pytest.approx([1 / 16, 3 / 16, 5 / 16, 7 / 16], abs=1e-14)
    assert chances(1.0, levels=4, concentration=3.0) == pytest.approx([7 / 16, 5 / 16, 3 / 16, 1 / 16], abs=1e-14)


def exact(alpha, b, x):
    """Return F(x) of Beta(alpha, b) for whole numbers: the chance of alpha or more hits in alpha + b − 1 trials."""
    n = alpha + b - 1
    return sum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(alpha, n + 1))


@pytest.mark.parametrize("rating", [1, 2, 3])
def test_levels_against_exact_sums(rating):
    """A whole rating k has α = 6 k: F is a sum of binomial chances, here in fractions."""
    edges = [exact(6 * rating, 24 - 6 * rating, Fraction(k, 5)) for k in range(6)]
    want = [float(high - low) for low, high in pairwise(edges)]
    assert chances(float(rating)) == pytest.approx(want, rel=1e-12)
    assert max(range(5), key=want.__getitem__) == rating


@pytest.mark.parametrize("rating", [0.02, 0.7, 2.3, 3.1, 3.98])
def test_levels_against_scipys_distribution(rating):
    """By its F, and by the integral of its density."""
    alpha = 24 * rating / 4
    law = beta(alpha, 24 - alpha)
    found = chances(rating)
    assert found == pytest.approx(np.diff(law.cdf(np.linspace(0, 1, 6))).tolist(), abs=1e-12)
    for level in (1, 2, 3):  # at the ends the density may have no bound
        assert found[level] == pytest.approx(quad(law.pdf, level / 5, (level + 1) / 5)[0], abs=1e-9)
    assert sum(found) == pytest.approx(1, abs=1e-12)


def test_levels_in_the_tails_keep_their_digits():
    """A rating of 3.6 says almost never 0: F(1/5) of Beta(21.6, 2.4), against scipy's log; and mirrored."""
    want = beta(21.6, 2.4).logcdf(0.2)
    assert want < -30
    for rating, level in ((3.6, 0), (0.4, 4)):
        found = level_logps(torch.tensor(rating, dtype=torch.float64))
        assert found[level].item() == pytest.approx(want, rel=1e-9)


def test_the_ends_of_the_scale_are_certain_and_what_lies_beyond_is_an_end():
    found = level_logps(torch.tensor([-3.0, 0.0, 4.0, 9.0]))
    assert found.isfinite().all()
    assert found.dtype == torch.float64
    assert found.argmax(-1).tolist() == [0, 0, 4, 4]
    assert found.amax(-1).exp().tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[1], found[2].flip(0))


def test_attributes_multiply():
    """Two responses, helpfulness 4 and verbosity 2 wanted: log P of either level, added."""
    ratings = torch.tensor([[3.5, 2.0], [1.0, 2.5]])
    wanted = torch.tensor([[4, 2], [4, 2]])
    every = level_logps(ratings)
    want = [(every[i, 0, 4] + every[i, 1, 2]).item() for i in range(2)]
    found = attribute_logps(ratings, wanted)
    assert found.tolist() == pytest.approx(want)
    assert found[0] > found[1]


def test_weights_by_bayes_rule():
    """Three responses, P(a|y) = ½, ¼, ¼, P(y) = 0.2, 0.2, 0.6: P(y|a) = 0.1, 0.05, 0.15 over 0.3, when Q' is uniform.

    Drawn from Q' = P(y) they weigh as P(a|y) alone.
    """
    attributes = torch.tensor([0.5, 0.25, 0.25]).log()
    prior = torch.tensor([0.2, 0.2, 0.6]).log()
    uniform = torch.full((3,), 1 / 3).log()
    assert target_weights(attributes, prior, uniform).tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 2])
    assert target_weights(attributes, prior, prior).tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_the_baseline_by_hand():
    """Q_θ/Q' = 2, 1, 1; and 1/n each where the two are one."""
    assert policy_weights(torch.zeros(3)).tolist() == pytest.approx([1 / 3] * 3)
    ratios = torch.tensor([0.2 / 0.1, 0.3 / 0.3, 0.2 / 0.2, 0.0]).log()  # the last is not there
    assert policy_weights(ratios).tolist() == pytest.approx([0.5, 0.25, 0.25, 0.0])


def test_effective_samples_by_hand():
    """Four equal weights are four; ½, ½, 0, 0 are two; a single one is one; ½, ¼, ¼ are 1/(¼ + ⅛)."""
    weights = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]])
    assert effective_samples(weights).tolist() == pytest.approx([4.0, 2.0, 1.0, 8 / 3])


def test_the_gradient_is_the_papers():
    """−(w − b) for each log Q_θ, with w and b by hand: (½, ½, 0) and (½, ¼, ¼)."""
    proposal = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64).log()
    logps = torch.tensor([0.2, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
    targets = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    value = distance(logps - proposal, targets)
    value.backward()
    assert value.item() == pytest.approx(0.5 * math.log(2))  # ½ log(½/½) + ½ log(½/¼)
    assert logps.grad.tolist() == pytest.approx([0.0, -0.25, 0.25])
    assert gradcheck(lambda one: distance(one - proposal, targets), [logps])
    absent = torch.cat((logps - proposal, torch.tensor([-torch.inf], dtype=torch.float64)))
    assert distance(absent, torch.cat((targets, targets.new_zeros(1)))).item() == pytest.approx(value.item())


def test_the_distance_is_0_where_the_policy_is_the_target_and_nowhere_less():
    attributes, prior = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    proposal = torch.randn(4, 6, dtype=torch.float64)
    targets = target_weights(attributes, prior, proposal)
    assert distance(attributes + prior - proposal + 7.0, targets).tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert (distance(torch.randn(4, 6, dtype=torch.float64), targets) > 0).all()
