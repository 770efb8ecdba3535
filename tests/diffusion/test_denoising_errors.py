"""Denoising errors as log-ratios: exact with weights ½|dλ|, not with constant ones; Diffusion-DPO's own numbers."""

import math

import numpy as np
import pytest
import torch
from toy_image_models import formula_model

from tokenq.core.losses import find_loss
from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.diffusion.errors import draw_levels, error_logps, level_weights
from tokenq.diffusion.model import Conditioning
from tokenq.diffusion.schedule import Schedule
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.errors import UserError

POINTS = torch.tensor([[-1.6], [-0.4], [0.3], [1.1], [2.0]], dtype=torch.float64)
MIXTURES = {"policy": ([0.75, 0.25], [-0.7, 1.2], [0.6, 0.5]), "reference": ([0.4, 0.6], [-1.0, 0.8], [0.7, 0.6])}


def mixture_picture(mixture):
    """E[x_0 | x] of a mixture of Gaussians: each part's answer, by how likely it is to have made x."""
    shares, means, sds = (torch.tensor(values, dtype=torch.float64) for values in mixture)

    def picture(x, alpha, sigma):
        spread = alpha**2 * sds**2 + sigma**2
        distance = x - alpha * means
        likely = torch.softmax(shares.log() - 0.5 * spread.log() - 0.5 * distance**2 / spread, -1)
        return (likely * (means + alpha * sds**2 / spread * distance)).sum(-1, keepdim=True)

    return picture


def log_density(mixture):
    parts = [
        math.log(share) - math.log(sd) - 0.5 * ((POINTS - mean) / sd) ** 2
        for share, mean, sd in zip(*mixture, strict=True)
    ]
    return torch.logsumexp(torch.cat(parts, 1), 1)


def estimated(schedule, weights):
    """Σ over all levels and Gauss-Hermite nodes of the noise: what draws would estimate, without their error."""
    nodes, shares = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(80))
    levels = torch.arange(1, schedule.levels + 1).repeat_interleave(len(nodes)).expand(len(POINTS), -1)
    noise = nodes.repeat(schedule.levels).expand(len(POINTS), -1)[..., None]
    weighed = (shares / shares.sum()).repeat(schedule.levels) * len(nodes)
    told = Conditioning({"none": torch.zeros(len(POINTS), 0)}, {"none": torch.zeros(1, 0)})

    def logps(name):
        model = formula_model(schedule, mixture_picture(MIXTURES[name]))
        return (error_logps(model, POINTS, levels, noise, told, weights) * weighed).sum(1)

    return (logps("policy") - logps("reference")).detach()


def schedule(prediction, kind="variance_preserving"):
    """300 levels evenly apart in λ from 14 to −14; those of a flow end in noise alone."""
    log_snr = torch.linspace(14, -14, 300, dtype=torch.float64)
    ratio = (log_snr / 2).exp()
    alphas = ratio / (1 + ratio) if kind == "flow" else log_snr.sigmoid().sqrt()
    sigmas = 1 / (1 + ratio) if kind == "flow" else (-log_snr).sigmoid().sqrt()
    ends = ([1.0], [0.0]), (([0.0], [1.0]) if kind == "flow" else ([], []))
    tables = [
        torch.cat([torch.tensor(ends[0][place], dtype=torch.float64), table, torch.tensor(ends[1][place]).double()])
        for place, table in enumerate((alphas, sigmas))
    ]
    return Schedule(tables[0], tables[1], kind, prediction)


@pytest.mark.parametrize(
    ("prediction", "kind"), [("x0", "variance_preserving"), ("v", "variance_preserving"), ("velocity", "flow")]
)
def test_errors_weighed_by_the_log_snr_are_the_log_ratio(prediction, kind):
    right = log_density(MIXTURES["policy"]) - log_density(MIXTURES["reference"])
    assert torch.allclose(estimated(schedule(prediction, kind), "log_snr"), right, atol=1e-4)


def test_on_any_schedule_and_with_epsilon():
    """Diffusers' cosine, a thousand uneven levels: cut off at λ = 10.1, where its last level is, and −21."""
    from tokenq.diffusion.schedule import schedule_of

    uneven = schedule_of({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"})
    right = log_density(MIXTURES["policy"]) - log_density(MIXTURES["reference"])
    assert torch.allclose(estimated(uneven, "log_snr"), right, atol=2e-3)


def test_constant_weights_are_no_log_ratio_on_any_scale():
    from tokenq.diffusion.schedule import schedule_of

    linear = schedule_of({"beta_schedule": "linear", "num_train_timesteps": 300, "beta_end": 0.06})
    right = log_density(MIXTURES["policy"]) - log_density(MIXTURES["reference"])
    constant = estimated(linear, "constant")
    scale = (constant @ right) / (constant @ constant)
    assert (scale * constant - right).abs().max() > 0.05
    assert scale > 10  # and far from it as it is: a mean over levels, where the log-ratio is an integral over λ


def test_weights_are_the_trapezoids_of_the_log_snr():
    """λ = 4, 1, 0 at σ² = 1/(1 + e^λ): widths 1.5, 2, 0.5 for errors of ε; times L = 3 and α²/σ² = e^λ for x_0."""
    log_snr = torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    given = Schedule(
        torch.cat([zero + 1, log_snr.sigmoid().sqrt()]), torch.cat([zero, (-log_snr).sigmoid().sqrt()]), "", "epsilon"
    )
    expected = [0.0, 4.5 * math.exp(4), 6 * math.exp(1), 1.5]
    assert level_weights(given).tolist() == pytest.approx(expected)
    assert level_weights(given, "constant").tolist() == pytest.approx([0.0, math.exp(4), math.exp(1), 1.0])
    with pytest.raises(UserError, match="Did you mean 'constant'"):
        level_weights(given, "constnt")


def batch(n=4):
    dice = torch.Generator().manual_seed(0)
    policy, reference = tiny_image_model(("red",), 1), tiny_image_model(("red",), 2)
    chosen, rejected = torch.randn(2, n, 3, 8, 8, generator=dice)
    levels = draw_levels(policy.schedule, n, 1, dice)
    return policy, reference, chosen, rejected, levels, torch.randn(n, 1, 3, 8, 8, generator=dice)


@pytest.mark.parametrize(("factor", "strength"), [(0.5, 5000.0), (1.0, 2500.0)])
def test_constant_weights_give_diffusion_dpo_s_loss(factor, strength):
    """−log σ(−f β (Δ mse of the model − Δ mse of the reference)): f ½, β 5000 as published, f 1, β 2500 in diffusers.

    Its errors are means over D dimensions and ours sums with a ½, so f β_theirs = ½ β D.
    """
    policy, reference, chosen, rejected, levels, noise = batch()
    told = policy.encode(["red"] * 4)

    def mse(model, latents):
        alphas, sigmas = (
            t[levels[:, 0]].float().view(-1, 1, 1, 1) for t in (model.schedule.alphas, model.schedule.sigmas)
        )
        output = model.denoiser(alphas * latents + sigmas * noise[:, 0], levels[:, 0], told.columns["bags"])
        return ((output - latents) ** 2).mean((1, 2, 3))

    model_diff = mse(policy, chosen) - mse(policy, rejected)
    ref_diff = mse(reference, chosen) - mse(reference, rejected)
    theirs = -torch.nn.functional.logsigmoid(-factor * strength * (model_diff - ref_diff))

    def logps(model):
        sides = [error_logps(model, side, levels, noise, told, "constant") for side in (chosen, rejected)]
        return PairLogps(*(TokenLogps(side, torch.ones_like(side, dtype=torch.bool)) for side in sides))

    ours = find_loss("dpo").function(logps(policy), logps(reference), beta=2 * factor * strength / 192)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6 * theirs.max().item())


def test_noise_and_levels_that_are_shared_leave_nothing_between_equal_models_and_equal_pictures():
    policy, _, chosen, _, levels, noise = batch()
    told = policy.encode(["red"] * 4)
    same = [error_logps(policy, chosen, levels, noise, told) for _ in range(2)]
    assert torch.equal(same[0], same[1])
    other = error_logps(policy, chosen, levels, noise.flip(0), told)
    assert (other - same[0]).abs().max() > 1


def test_levels_are_drawn_from_every_part_and_uniformly():
    found = draw_levels(tiny_image_model(("red",)).schedule, 5000, 4, torch.Generator().manual_seed(0))
    assert found.min() == 1
    assert found.max() == 100
    assert [(part.min().item(), part.max().item()) for part in found.T] == [(1, 25), (26, 50), (51, 75), (76, 100)]
    counts = torch.bincount(found.flatten(), minlength=101)[1:].double()
    assert (counts - 200).abs().max() < 5 * math.sqrt(200)
