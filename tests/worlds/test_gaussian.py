"""Gaussian worlds and mixtures, against integrals on a grid and densities written out; what they refuse."""

import math

import pytest
import torch

from tokenq.errors import UserError
from tokenq.worlds.draws import generator, normal
from tokenq.worlds.gaussian import Quadratic, Step, draw, exact_denoiser, nodes, solve, step_logps
from tokenq.worlds.mixture import SCHEDULES, Mixture, error_gains, predicted_noise, tilted


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


STEPS = (Step(of([0.8]), of(0.1), of([0.5])), Step(of([1.1]), of(-0.2), of([0.2])))
REWARD = Quadratic(of([0.7]), of(0.4), torch.tensor(0.3, dtype=torch.float64))
GAMMA = 0.6


def test_values_and_best_steps_are_the_integrals():
    """V(x) = γ log ∫ N(y; ax + b, s) exp(V(y)/γ) dy, and p* its integrand over it, on a grid of 4,001 points."""
    found, grid = solve(STEPS, REWARD, GAMMA), torch.linspace(-8, 8, 4001, dtype=torch.float64)
    after = 0.3 + 0.4 * grid - 0.35 * grid**2
    assert torch.allclose(found.values[2].at(grid[:, None]), after)
    for step in (1, 0):
        (slope,), (bias,), (spread,) = (part.flatten().tolist() for part in STEPS[step])
        for x in (-1.3, 0.0, 0.9):
            density = torch.exp(-((grid - slope * x - bias) ** 2) / 2 / spread) / math.sqrt(2 * math.pi * spread)
            mass = density * (after / GAMMA).exp()
            total = torch.trapezoid(mass, grid)
            assert float(found.values[step].at(of(x))) == pytest.approx(float(GAMMA * total.log()), abs=1e-10)
            best = found.steps[step].after(of(x))
            mean = float(torch.trapezoid(mass * grid, grid) / total)
            assert float(best.loc) == pytest.approx(mean, abs=1e-10)
            assert float(best.variance) == pytest.approx(
                float(torch.trapezoid(mass * (grid - mean) ** 2, grid) / total), abs=1e-10
            )
        after = found.values[step].at(grid[:, None])


def test_a_linear_reward_moves_means_and_no_variance():
    linear = solve(STEPS, Quadratic(of([0.0]), of(0.4), torch.tensor(0.0, dtype=torch.float64)), GAMMA)
    assert [float(step.covariance) for step in linear.steps] == pytest.approx([0.5, 0.2])
    assert float(linear.steps[1].bias - STEPS[1].bias) == pytest.approx(0.2 * 0.4 / 0.6)
    assert float(solve(STEPS, REWARD, GAMMA).steps[1].covariance) == pytest.approx(1 / (1 / 0.2 + 0.7 / 0.6))


def test_densities_are_summed_over_dimensions():
    step = Step(0.5 * torch.eye(2, dtype=torch.float64), of(0.0, 1.0), torch.diag(of(1.0, 4.0)))
    path = of([[2.0, 2.0], [1.0, 4.0]])  # off by 0 and 2, of sd 1 and 2
    assert float(step_logps((step,), path)[0, 0]) == pytest.approx(-math.log(2 * math.pi) - math.log(2) - 0.5)


def test_a_step_of_the_exact_denoiser():
    """One number, mean 1 and variance ¼, from λ = 0 (α² = σ² = ½) to λ = log 4 (α² = ⅘), η = 1.

    Gain αC/(α²C + σ²) = (.25/√2)/.625; the sd is σ_s/σ_t √(1 − α_t²/α_s²) = √(.2/.5 · 3/8) = √.15.
    """
    (step,) = exact_denoiser(of(1.0), of([0.25]), (0.0, math.log(4)), 1.0)
    gain, kept = 0.25 / math.sqrt(2) / 0.625, math.sqrt((0.2 - 0.15) / 0.5)
    x = 0.3
    picture = 1 + gain * (x - math.sqrt(0.5))
    assert float(step.covariance) == pytest.approx(0.15)
    assert float(step.after(of(x)).loc) == pytest.approx(
        math.sqrt(0.8) * picture + kept * (x - math.sqrt(0.5) * picture)
    )


def test_fine_steps_of_the_exact_denoiser_draw_the_pictures():
    levels = [-9 + 0.1 * step for step in range(181)]
    steps = exact_denoiser(of(1.0), of([0.25]), levels, 0.5)
    drawn = draw(steps, normal((20_000, 1), generator(0)), generator(1))[:, -1]
    assert float(drawn.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(drawn.var()) == pytest.approx(0.25, abs=0.02)


def test_nodes_have_the_moments_of_what_is_drawn():
    """Mean and variance of x_0 from N(0, 1): 1.1 (.8 x + .1) − .2, and 1.21 (.64 + .5) + .2."""
    path, chances = nodes(STEPS, (3, 3, 3))
    last = path[:, -1, 0]
    mean = float(chances @ last)
    assert (path.shape, float(chances.sum())) == ((27, 3, 1), pytest.approx(1.0))
    assert mean == pytest.approx(1.1 * 0.1 - 0.2)
    assert float(chances @ (last - mean) ** 2) == pytest.approx(1.21 * 1.14 + 0.2)


@pytest.mark.parametrize(
    ("levels", "eta", "says"),
    [
        ((0.0, 1.0), 0.0, "nothing is decided here"),
        ((0.0, 1.0), -1.0, "nothing is decided here"),
        ((0.0, 1.0), float("nan"), "nothing is decided here"),
        ((0.0, 1.0), 1.5, "more noise than its level holds"),
        ((1.0, 0.0), 1.0, "no way from noise to a picture"),
        ((1.0,), 1.0, "no way from noise to a picture"),
    ],
)
def test_samplers_that_are_none_are_refused(levels, eta, says):
    with pytest.raises(UserError, match=says):
        exact_denoiser(of(0.0), of([1.0]), levels, eta)


def test_problems_without_an_optimum_are_refused():
    with pytest.raises(UserError, match="gamma = 0"):
        solve(STEPS, REWARD, 0.0)
    with pytest.raises(UserError, match="grows faster"):  # precision 5 of the last step, bent up by 3/.6
        solve(STEPS, Quadratic(of([-3.0]), of(0.0), torch.tensor(0.0, dtype=torch.float64)), GAMMA)


MIX = Mixture(of(0.3, -0.5), of(-1.0, 0.8), of(0.5, 0.7))


def test_a_tilted_mixture_is_the_product():
    grid = torch.linspace(-9, 9, 6001, dtype=torch.float64)

    def density(mix):
        parts = torch.exp(-(((grid[:, None] - mix.means) / mix.sds) ** 2) / 2) / mix.sds / math.sqrt(2 * math.pi)
        return parts @ mix.logits.softmax(0)

    after, total = tilted(MIX, 0.6, 0.5)
    product = density(MIX) * torch.exp(0.6 * grid - 0.25 * grid**2)
    assert float(total.exp()) == pytest.approx(float(torch.trapezoid(product, grid)), rel=1e-9)
    assert torch.allclose(density(after), product / total.exp(), atol=1e-12)


def test_the_predicted_noise_of_one_gaussian():
    """N(m, s²) at x: σ (x − α m)/(α² s² + σ²)."""
    found = predicted_noise(Mixture(of(0.0), of(1.0), of(0.5)), of(0.4), of(0.8), of(0.6))
    assert float(found) == pytest.approx(0.6 * (0.4 - 0.8) / (0.64 * 0.25 + 0.36))


def test_errors_of_one_gaussian_by_hand():
    """Mean off by d, at picture x: ε − ε̂ = ε (1 − σ²/v) − ασ(x − m)/v, v = α² s² + σ²; the difference of squares."""
    reference, policy = (Mixture(of(0.0), of(mean), of(0.5)) for mean in (1.0, 1.5))
    found = error_gains(policy, reference, of(2.0), of(0.0))
    off, variance = 0.5, 0.5 * 0.25 + 0.5  # ασ = ½
    expected = (off / variance) ** 2 * (1.0**2 - 0.5**2)
    assert float(found) == pytest.approx(expected)


def test_schedules_at_known_times():
    half = of(0.5)
    assert float(SCHEDULES["cosine"](half)) == pytest.approx(0.0, abs=1e-12)
    decay = 0.05 + 9.95 / 4
    assert float(SCHEDULES["linear"](half)) == pytest.approx(math.log(math.exp(-decay) / (1 - math.exp(-decay))))
