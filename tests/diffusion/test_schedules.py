"""Noise schedules: those of diffusers' schedulers, and what the four predictions mean."""

import math

import pytest
import torch

from tokenq.diffusion.schedule import PREDICTIONS, Schedule, schedule_of
from tokenq.errors import UserError

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"trained_betas": [0.1, 0.2, 0.3]},
    ],
)
def test_signal_and_noise_are_those_of_diffusers(config):
    theirs = diffusers.DDPMScheduler(**config)
    ours = schedule_of({**theirs.config, "_class_name": "DDPMScheduler"})
    assert torch.allclose(ours.alphas[1:] ** 2, theirs.alphas_cumprod.double(), atol=3e-6)
    assert torch.allclose(ours.alphas**2 + ours.sigmas**2, torch.ones(ours.levels + 1, dtype=torch.float64))
    assert (ours.alphas[0], ours.sigmas[0]) == (1, 0)


def test_a_shifted_flow_is_that_of_diffusers():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = schedule_of({**theirs.config, "_class_name": "FlowMatchEulerDiscreteScheduler"})
    assert (ours.kind, ours.prediction) == ("flow", "velocity")
    assert torch.allclose(ours.sigmas[1:].flip(0), theirs.sigmas.double(), atol=1e-6)
    assert torch.allclose(ours.alphas + ours.sigmas, torch.ones(1001, dtype=torch.float64))


def test_a_dynamic_shift_follows_the_size_of_the_latents():
    """64×64 latents are 1024 patches, a fifth of the way from 256 to 4096: μ = .5 + .2 · .65."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    middle = schedule_of(config, (16, 64, 64)).sigmas[500].item()
    assert middle == pytest.approx(math.exp(0.63) / (math.exp(0.63) + 1))
    with pytest.raises(UserError, match="size of the latents"):
        schedule_of(config)


@pytest.mark.parametrize("kind", ["variance_preserving", "flow"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_right_output_gives_the_picture_and_the_noise_back(kind, prediction):
    kind = {"v": "variance_preserving", "velocity": "flow"}.get(prediction, kind)
    sigmas = torch.tensor([0.0, 0.28, 0.6], dtype=torch.float64)
    alphas = 1 - sigmas if kind == "flow" else (1 - sigmas**2).sqrt()
    schedule = Schedule(alphas, sigmas, kind, prediction)
    dice = torch.Generator().manual_seed(1)
    x0, noise, wrong = torch.randn(3, 2, 5, generator=dice, dtype=torch.float64)
    levels = torch.tensor([1, 2])
    noisy = schedule.noised(x0, levels, noise)
    output = schedule.target(x0, levels, noise)
    assert torch.allclose(schedule.to_x0(output, noisy, levels), x0)
    assert torch.allclose(schedule.to_noise(x0, noisy, levels), noise)
    # An output that is wrong by `wrong` is a picture that is wrong by that over the scale, up to the sign.
    missed = schedule.to_x0(output + wrong, noisy, levels) - x0
    scale = PREDICTIONS[prediction].scale(*schedule.at(levels, x0))
    assert torch.allclose((scale * missed).abs(), wrong.abs())


def test_what_cannot_be_used_is_refused_by_name():
    def refused(**config):
        with pytest.raises(UserError) as caught:
            schedule_of(config)
        return str(caught.value)

    assert "'EDMEulerScheduler' has no noise schedule" in refused(_class_name="EDMEulerScheduler")
    assert "Unknown prediction_type 'sampel'" in refused(beta_schedule="linear", prediction_type="sampel")
    assert "Did you mean 'scaled_linear'" in refused(beta_schedule="scaled_liner")
    assert "noise alone" in refused(beta_schedule="linear", rescale_betas_zero_snr=True)
    assert "thresholds" in refused(beta_schedule="linear", thresholding=True)
