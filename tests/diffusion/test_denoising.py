"""Plain denoising training: what it minimises, what it trains, and what it refuses."""

import pytest
import torch

from tokenq.diffusion.denoising import train_denoising
from tokenq.diffusion.errors import level_weights
from tokenq.diffusion.open import open_image_model
from tokenq.diffusion.sampling import draw, initial_noise, spaced_steps
from tokenq.diffusion.small import small_image_model
from tokenq.diffusion.tiny import tiny_image_model
from tokenq.errors import UserError

PROMPTS = ["red", "blue"]
PICTURES = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, -0.5)])


@pytest.mark.integration
def test_a_tiny_model_learns_to_draw_two_plain_pictures():
    model = tiny_image_model(PROMPTS)
    losses = []
    train_denoising(model, PROMPTS, PICTURES, steps=150, batch=32, told=lambda step, loss: losses.append(loss))
    assert losses[0] > 0.25  # the variance of the pictures, before anything is known
    assert sum(losses[-10:]) / 10 < 0.05
    dice = torch.Generator().manual_seed(0)
    drawn = draw(model, model.encode(PROMPTS), [1, 2], spaced_steps(model.schedule, 10), dice)
    assert torch.allclose(drawn.latents[:, -1].mean((1, 2, 3)), torch.tensor([0.5, -0.5]), atol=0.1)
    # Without a prompt, which a tenth of the rows had, both are as likely: the expected picture lies between.
    empty = model.predict(initial_noise(model, [3]), torch.tensor([100]), model.encode([""]))
    assert empty.mean().abs() < 0.25


@pytest.mark.integration
@pytest.mark.parametrize(("weights", "batch"), [("constant", 2000), ("log_snr", 20000)])
def test_the_first_loss_is_the_mean_of_what_the_weights_count(weights, batch):
    """A network that says 0 for pictures of 0.5: x_0 errors of 0.25 at every level and dimension."""
    model = tiny_image_model(["red"])
    torch.nn.init.zeros_(model.denoiser.exit.weight)
    torch.nn.init.zeros_(model.denoiser.exit.bias)
    losses = []
    train_denoising(
        model, ["red"], PICTURES[:1], steps=1, batch=batch, weights=weights, told=lambda _, loss: losses.append(loss)
    )
    expected = 0.25 * level_weights(model.schedule, weights)[1:].mean().item()
    assert losses == [pytest.approx(expected, rel=0.1)]


@pytest.mark.integration
def test_a_text_encoder_that_is_not_frozen_is_trained():
    model = small_image_model(PROMPTS, size=8, channels=(8, 16))
    text = model.parts.text_network
    before = [weight.detach().clone() for weight in text.parameters()]
    train_denoising(model, PROMPTS, PICTURES, steps=2, batch=4, dropped=0.0)
    assert any(not torch.equal(old, new) for old, new in zip(before, text.parameters(), strict=True))
    text.requires_grad_(False)
    before = [weight.detach().clone() for weight in text.parameters()]
    train_denoising(model, PROMPTS, PICTURES, steps=2, batch=4)
    assert all(torch.equal(old, new) for old, new in zip(before, text.parameters(), strict=True))


def test_rows_that_do_not_fit_and_a_loss_that_is_not_finite_are_refused():
    model = tiny_image_model(PROMPTS)
    with pytest.raises(UserError, match="1 prompts for 2 pictures"):
        train_denoising(model, ["red"], PICTURES, steps=1)
    with pytest.raises(UserError, match="The loss of step 1 is nan"):
        train_denoising(model, PROMPTS, PICTURES * float("nan"), steps=1)


@pytest.mark.slow
def test_a_small_unet_learns_what_words_mean_from_scratch(tmp_path):
    model = small_image_model(PROMPTS, size=8, channels=(16, 32))
    train_denoising(model, PROMPTS, PICTURES, steps=200, batch=16, learning_rate=3e-3)
    model.save(tmp_path / "small")
    again = open_image_model(tmp_path / "small")
    dice = torch.Generator().manual_seed(0)
    drawn = draw(again, again.encode(PROMPTS), [1, 2], spaced_steps(again.schedule, 20), dice)
    assert torch.allclose(drawn.latents[:, -1].mean((1, 2, 3)), torch.tensor([0.5, -0.5]), atol=0.2)
