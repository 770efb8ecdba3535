"""Steps of denoising: their Gaussians against the formulas of papers, diffusers, and closed forms of Gaussian data."""

import dataclasses
import math

import pytest
import torch
from toy_image_models import formula_model, gaussian_picture

from tokenq.diffusion.model import Conditioning
from tokenq.diffusion.sampling import (
    LAST,
    Steps,
    Trajectories,
    draw,
    gaussian_logps,
    initial_noise,
    spaced_steps,
    step_distribution,
    step_logps,
)
from tokenq.diffusion.schedule import schedule_of
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.errors import UserError

diffusers = pytest.importorskip("diffusers")

LINEAR = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
SHAPE = (3, 4, 4)


def one(n):
    return Conditioning({"lengths": torch.ones(n, 1)}, {"lengths": torch.zeros(1, 1)})


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_gaussian_is_summed_over_its_dimensions():
    """Two dimensions, sd 2, errors 2 and 4: −½(1 + 4) − 2 log 2 − log 2π."""
    found = gaussian_logps(torch.tensor([[2.0, 4.0]]), torch.zeros(1, 2), torch.full((1, 1), 2.0))
    assert found.item() == pytest.approx(-2.5 - 2 * math.log(2) - math.log(2 * math.pi))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_ddim_step_has_ddpo_s_log_probability_times_the_dimensions(eta):
    """DDIM (2010.02502) eq. 12 and 16 with ᾱ; DDPO (2305.13301) takes the mean over dimensions, not the sum."""
    schedule = schedule_of(LINEAR)
    model = formula_model(schedule, gaussian_picture(0.2, 0.7), SHAPE)
    steps = Steps((800, 500, 0), eta)
    x, after = torch.randn(2, 5, *SHAPE, generator=dice())
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    products = (1 - betas).cumprod(0)
    now, then = products[799].item(), products[499].item()
    x0 = 0.2 + math.sqrt(now) * 0.49 / (now * 0.49 + 1 - now) * (x - math.sqrt(now) * 0.2)
    noise = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
    std = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    mean = math.sqrt(then) * x0 + math.sqrt(1 - then - std**2) * noise
    theirs = -((after - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(math.sqrt(2 * math.pi))
    latents = torch.stack([x, after, after], 1)
    ours = step_logps(model, Trajectories(latents, torch.zeros(5, 2), steps), one(5), places=[0])
    assert torch.allclose(ours[:, 0], theirs.mean((1, 2, 3)) * 48, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_step_is_that_of_diffusers_ddim(prediction, eta):
    theirs = diffusers.DDIMScheduler(clip_sample=False, prediction_type=prediction)
    theirs.set_timesteps(10)
    schedule = schedule_of({**theirs.config, "_class_name": "DDIMScheduler"})
    model = formula_model(schedule, gaussian_picture(0.1, 0.5), SHAPE)
    x = torch.randn(2, *SHAPE, generator=dice())
    levels = torch.tensor([701, 701])
    output = model.parts.output(model.denoiser, x, levels, {})
    at = {noise: theirs.step(output, 700, x, eta, variance_noise=torch.full_like(x, noise))[0] for noise in (0.0, 1.0)}
    mean, sd = step_distribution(model, x, 0, one(2), Steps((701, 601, 0), eta))
    assert torch.allclose(mean, at[0.0], atol=1e-5)
    assert torch.allclose(sd.expand_as(x), at[1.0] - at[0.0], atol=1e-5)


@pytest.mark.parametrize("clip", [False, True])
def test_a_step_of_one_level_is_that_of_diffusers_ddpm(clip):
    theirs = diffusers.DDPMScheduler(clip_sample=clip)
    schedule = schedule_of({**theirs.config, "_class_name": "DDPMScheduler"})
    assert schedule.clip == (1.0 if clip else None)
    model = formula_model(schedule, gaussian_picture(0.9, 0.8), SHAPE)
    x = 2 * torch.randn(2, *SHAPE, generator=dice())
    output = model.parts.output(model.denoiser, x, torch.tensor([301, 301]), {})
    drawn = theirs.step(output, 300, x, generator=dice(3)).prev_sample
    mean, sd = step_distribution(model, x, 0, one(2), Steps((301, 300, 0)))
    noise = torch.randn(x.shape, generator=dice(3))
    assert torch.allclose(mean + sd * noise, drawn, atol=1e-5)
    assert sd.flatten()[0].item() == pytest.approx(theirs._get_variance(300).sqrt().item(), rel=1e-5)


def moments(schedule, steps, mean, sd):
    """The exact mean and variance of the last latent before 0 for data N(mean, sd²): each step is affine in x."""
    model = formula_model(schedule, gaussian_picture(mean, sd))
    places = torch.arange(steps.count - 1)
    zero, one_ = torch.zeros(len(places), 1, dtype=torch.float64), torch.ones(len(places), 1, dtype=torch.float64)
    at = [step_distribution(model, points, places, one(len(places)), steps) for points in (zero, one_)]
    rows = zip(at[0][0].tolist(), (at[1][0] - at[0][0]).tolist(), at[0][1].tolist(), strict=True)
    alpha, sigma = (table[steps.levels[0]].item() for table in (schedule.alphas, schedule.sigmas))
    found_mean, variance = alpha * mean, alpha**2 * sd**2 + sigma**2
    for (shift,), (slope,), (spread,) in rows:
        found_mean, variance = shift + slope * found_mean, slope**2 * variance + spread**2
    return found_mean, variance


@pytest.mark.parametrize(
    ("config", "sampler", "eta"),
    [
        (FLOW, "flow_sde", 0.5),
        (FLOW, "flow_sde", 1.0),
        (FLOW, "ancestral", 0.5),
        (FLOW, "ancestral", 1.0),
        (LINEAR, "ancestral", 0.5),
    ],
)
def test_noise_in_the_steps_keeps_the_marginals_of_the_deterministic_flow(config, sampler, eta):
    """x_l ~ N(α m, α² s² + σ²) whatever η is, in the limit of small steps: the error halves with the step."""
    schedule = schedule_of({**config, "num_train_timesteps": 2000, "beta_end": 0.01})
    errors = []
    for stride in (4, 2, 1):
        steps = Steps((*range(1800, 600, -stride), 600, 0), eta, 1.0, sampler)
        found_mean, variance = moments(schedule, steps, 0.8, 0.3)
        alpha, sigma = schedule.alphas[600].item(), schedule.sigmas[600].item()
        errors.append((found_mean - 0.8 * alpha, variance - (0.09 * alpha**2 + sigma**2)))
    (far_mean, far), (_, _), (near_mean, near) = errors
    assert abs(near) < 3e-4
    assert abs(near_mean) < 1e-3
    assert far / near == pytest.approx(4, rel=0.1)
    assert far_mean / near_mean == pytest.approx(4, rel=0.1) or abs(far_mean) < 1e-9


def test_steps_of_a_flow_are_flow_grpo_s():
    """Flow-GRPO (2505.05470): x + [v + σ²/(2t) (x + (1 − t) v)] Δ + σ √|Δ| ε, Δ < 0, σ = a √(t/(1 − t)), a = η√2."""
    schedule = schedule_of(FLOW)
    model = formula_model(schedule, gaussian_picture(0.3, 0.6), SHAPE)
    x = torch.randn(2, *SHAPE, generator=dice())
    mean, sd = step_distribution(model, x, 0, one(2), Steps((700, 600, 0), 0.5, 1.0, "flow_sde"))
    t, gap, sigma = 0.7, -0.1, 0.5 * math.sqrt(2) * math.sqrt(0.7 / 0.3)
    velocity = model.parts.output(model.denoiser, x, torch.tensor([700, 700]), {})
    theirs = x + (velocity + sigma**2 / (2 * t) * (x + (1 - t) * velocity)) * gap
    assert torch.allclose(mean, theirs, atol=1e-5)
    assert sd.flatten()[0].item() == pytest.approx(sigma * math.sqrt(-gap), rel=1e-5)
    # The ancestral step between two close levels has the same noise, up to the size of the step.
    _, small = step_distribution(model, x, 0, one(2), Steps((700, 699, 0), 0.5))
    assert (small.flatten()[0] ** 2).item() * 1000 == pytest.approx(sigma**2, rel=1e-2)
    # From noise alone the diffusion would be infinite: there √(1/(1 − t')), t' the step's end, as in the released code.
    _, first = step_distribution(model, x, 0, one(2), Steps((1000, 900, 0), 0.5, 1.0, "flow_sde"))
    assert first.flatten()[0].item() == pytest.approx(math.sqrt(0.5 / 0.1 * 0.1), rel=1e-5)


def test_the_last_step_has_a_density_around_the_predicted_picture():
    schedule = schedule_of(LINEAR)
    model = formula_model(schedule, lambda x, alpha, sigma: 0.25 * torch.ones_like(x), SHAPE)
    mean, sd = step_distribution(model, torch.randn(1, *SHAPE), 1, one(1), Steps((500, 100, 0), 0.5))
    assert torch.allclose(mean, torch.full_like(mean, 0.25), atol=1e-5)
    assert sd.flatten().tolist() == [pytest.approx(0.5 * LAST)]


def test_what_was_drawn_has_the_log_density_that_was_told_and_a_picture_does_not_depend_on_its_batch():
    model = tiny_image_model(("red", "blue"))
    told = model.encode(["red", "blue", "red"])
    steps = spaced_steps(model.schedule, 5, eta=0.7, guidance=2.0)
    whole = draw(model, told, [7, 8, 9], steps, [dice(1), dice(2), dice(3)])
    assert whole.latents.shape == (3, 6, 3, 8, 8)
    assert torch.allclose(step_logps(model, whole, told), whole.logps, rtol=1e-4, atol=1e-3)
    assert torch.equal(whole.latents[:, 0], initial_noise(model, [7, 8, 9]))
    alone = draw(model, model.encode(["blue"]), [8], steps, [dice(2)])
    assert torch.allclose(alone.latents[0], whole.latents[1], atol=1e-5)
    part = step_logps(model, whole, told, places=[3, 1])
    assert torch.allclose(part, whole.logps[:, [3, 1]], rtol=1e-4, atol=1e-3)
    assert part.requires_grad


def test_guidance_is_part_of_the_policy_and_a_change_of_it_is_said():
    model = tiny_image_model(("red",))
    told = model.encode(["red", "red"])
    x, levels = initial_noise(model, [1, 2]), torch.tensor([40, 80])
    empty, prompted = model.predict(x, levels, model.encode(["", ""])), model.predict(x, levels, told)
    assert torch.allclose(model.predict(x, levels, told, 3.0), empty + 3 * (prompted - empty), atol=1e-5)
    said = []
    trained = dataclasses.replace(model, guidance=5.0)
    for guidance in (5.0, 3.0):
        draw(trained, told, x, spaced_steps(model.schedule, 1, guidance=guidance), dice(), say=said.append)
    assert [text.split(":")[0] for text in said] == ["tiny was trained with guidance 5 and draws with 3"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"eta": 0.0}, "nothing is decided here"),
        ({"eta": 1.5}, r"in \(0, 1\]"),
        ({"sampler": "pndm"}, "nothing is decided here"),
        ({"sampler": "DPM-Solver++"}, "nothing is decided here"),
        ({"sampler": "euler"}, "nothing is decided here"),
        ({"sampler": "ancestrall"}, "Did you mean 'ancestral'"),
        ({"levels": (10, 20, 0)}, "do not descend"),
        ({"levels": (10, 5)}, "do not descend"),
    ],
)
def test_what_has_no_density_is_refused_with_the_reason(what, said):
    with pytest.raises(UserError, match=said):
        Steps(**{"levels": (10, 5, 0), **what})


def test_a_schedule_that_a_sampler_or_its_steps_are_not_for_is_refused():
    model = tiny_image_model(("red",))
    told, x = model.encode(["red"]), initial_noise(model, [1])
    with pytest.raises(UserError, match="is for flow schedules"):
        draw(model, told, x, spaced_steps(model.schedule, 4, sampler="flow_sde"), dice())
    with pytest.raises(UserError, match="levels up to 100"):
        draw(model, told, x, Steps((500, 0)), dice())
    with pytest.raises(UserError, match="101 denoising steps"):
        spaced_steps(model.schedule, 101)


def test_a_latent_that_is_not_finite_is_named_by_its_step():
    model = formula_model(schedule_of(LINEAR), lambda x, a, s: torch.where(a > 0.2, float("nan"), x), SHAPE)
    with pytest.raises(UserError, match=r"picture 1 of 2 is not finite after step 3 of 4 \(noise level 500 to 250\)"):
        draw(model, one(2), [1, 2], spaced_steps(model.schedule, 4), dice())
