"""Plain denoising training: what an image model learns from pictures and their prompts before anybody prefers any."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tokenq.diffusion.errors import level_weights
from tokenq.diffusion.model import Conditioning, ImageModel
from tokenq.errors import UserError


def train_denoising(  # noqa: PLR0913 (one keyword a setting)
    model: ImageModel,
    prompts: Sequence[str],
    latents: Tensor,
    *,
    steps: int = 4000,
    batch: int = 128,
    learning_rate: float = 2e-3,
    dropped: float = 0.1,
    weights: str = "constant",
    seed: int = 0,
    told: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train the denoiser of a model in place on rows of a prompt and a picture, by AdamW with a cosine of rates.

    The loss is the mean over levels, rows and dimensions of w(l) (x̂_0 − x_0)². A text encoder with trainable weights is
    trained beside the denoiser; a frozen one encodes each different prompt once.

    Args:
        model: what is trained.
        prompts: [n].
        latents: [n, *shape] of the pictures, in the prompts' order.
        steps: of the optimiser.
        batch: rows a step, drawn with replacement.
        learning_rate: of the first step.
        dropped: share of rows whose prompt is left out, so that guidance has an empty prompt to start from.
        weights: a key of `errors.WEIGHTS`: "constant" as image models are trained, "log_snr" for the likelihood.
        seed: of rows, levels, noise and dropped prompts.
        told: (step, loss) after every step.

    Raises:
        UserError: no rows, or the loss is not finite.
    """
    if not prompts or len(prompts) != len(latents):
        raise UserError(f"{len(prompts)} prompts for {len(latents)} pictures.", "Give a prompt for each picture.")
    trained = _trained(model)
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: 0.5 * (1 + math.cos(math.pi * n / steps)))
    conditioning_of = _conditioning(model, prompts)
    counted = level_weights(model.schedule, weights)
    dice = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(prompts), (batch,), generator=dice)
        levels = torch.randint(1, model.schedule.levels + 1, (batch,), generator=dice)
        noise = torch.randn((batch, *model.shape), generator=dice)
        told_of = conditioning_of(rows).without(torch.rand(batch, generator=dice) < dropped)
        pictures = latents[rows].to(model.device)
        noisy = model.schedule.noised(pictures, levels, noise.to(pictures))
        errors = (model.predict(noisy, levels.to(model.device), told_of) - pictures).square().flatten(1).mean(1)
        loss = (counted[levels].to(errors) * errors).mean()
        if not loss.isfinite():
            raise UserError(f"The loss of step {step + 1} is {loss.item()}.", "Lower the learning rate.")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        told(step, loss.item())


def _trained(model: ImageModel) -> list[nn.Parameter]:
    """Return the weights that are trained: those of the denoiser and of its text encoder that are not frozen."""
    networks = [model.denoiser, *([] if model.parts.text_network is None else [model.parts.text_network])]
    return [weight for network in networks for weight in network.parameters() if weight.requires_grad]


def _conditioning(model: ImageModel, prompts: Sequence[str]) -> Callable[[Tensor], Conditioning]:
    """Return what gives the conditioning of rows."""
    text = model.parts.text_network
    if text is not None and any(weight.requires_grad for weight in text.parameters()):
        return lambda rows: model.encode([prompts[row] for row in rows.tolist()], gradient=True)
    different = list(dict.fromkeys(prompts))
    places = {prompt: place for place, prompt in enumerate(different)}
    index = torch.tensor([places[prompt] for prompt in prompts])
    encoded = model.encode(different)
    return lambda rows: encoded.select(index[rows])
