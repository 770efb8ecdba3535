"""Pairs of pictures to one request, drawn from one noise, and which of the two a labeller chose."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenq.demo.pictures.painter import drawing_steps, paint, told
from tokenq.demo.pictures.refiner import Refiner
from tokenq.demo.pictures.world import Vocabulary, drawn
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.sampling import Trajectories, step_logps

BATCH = 500
"""Pictures that are read at once."""


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs; the second axis of what has one is (chosen, rejected).

    Attributes:
        requests: [n, 3] words by number.
        prompts: [n, 2, 3] values that the refined prompts say.
        latents: [n, 2, T+1, 3, 8, 8] the way to each picture, from the same noise in a pair.
        rewards: [n, 2] what the labeller goes by: how many of colour, shape and place are as she means them.
        word_logps: [n, 2, 3] log-probs under the refiner that wrote.
        step_logps: [n, 2, T] log-densities under the image model that drew, in nats.
    """

    requests: Tensor
    prompts: Tensor
    latents: Tensor
    rewards: Tensor
    word_logps: Tensor
    step_logps: Tensor

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.requests)

    def at(self, places: Tensor) -> "Pairs":
        """Return some of the pairs."""
        return replace(self, **{name: rows[places] for name, rows in vars(self).items()})


def rewards(words: Vocabulary, requests: Tensor, pictures: Tensor) -> Tensor:
    """Return [n] how many of colour, shape and place are drawn as the labeller means them: the true reward, 0 to 3."""
    return (drawn(pictures) == words.values(requests)).sum(1).float()


def labelled_pairs(
    words: Vocabulary, refiner: Refiner, model: ImageModel, requests: Tensor, generator: torch.Generator
) -> Pairs:
    """Have requests drawn twice and labelled: P(first chosen) = σ(r₁ − r₂), r being the true reward.

    Args:
        words: of requests.
        refiner: writes the prompts.
        model: draws.
        requests: [n, 3] words by number.
        generator: of all that is drawn, labels too.
    """
    noise = torch.randn((len(requests), *model.shape), generator=generator)
    prompts = [refiner.write(requests, generator) for _ in range(2)]
    latents = [paint(model, values, noise, generator) for values in prompts]
    worth = torch.stack([rewards(words, requests, one[:, -1]) for one in latents], 1)
    first = torch.rand(len(requests), generator=generator) < torch.sigmoid(worth[:, 0] - worth[:, 1])
    order = torch.stack([~first, first], 1).long()
    rows = torch.arange(len(requests))[:, None]
    both = {"prompts": torch.stack(prompts, 1), "latents": torch.stack(latents, 1), "rewards": worth}
    ordered = {name: values[rows, order] for name, values in both.items()}
    nothing = torch.empty(len(requests), 0)
    found = Pairs(requests, **ordered, word_logps=nothing, step_logps=nothing)
    with torch.no_grad():
        parts = [
            (pair_word_logps(refiner, some), pair_step_logps(model, some))
            for some in map(found.at, torch.split(torch.arange(len(requests)), BATCH))
        ]
    of_words, of_steps = (torch.cat(part) for part in zip(*parts, strict=True))
    return replace(found, word_logps=of_words, step_logps=of_steps)


def pair_word_logps(refiner: Refiner, pairs: Pairs) -> Tensor:
    """Return [n, 2, 3] log π of the words of both prompts, with gradient."""
    return refiner.logps(pairs.requests.repeat_interleave(2, 0), pairs.prompts.flatten(0, 1)).view(len(pairs), 2, -1)


def pair_step_logps(model: ImageModel, pairs: Pairs) -> Tensor:
    """Return [n, 2, T] log-density of the steps to both pictures in nats, with gradient."""
    latents = pairs.latents.flatten(0, 1)
    ways = Trajectories(latents, torch.empty(0), drawing_steps(model))
    return step_logps(model, ways, told(model, pairs.prompts.flatten(0, 1))).view(len(pairs), 2, -1)
