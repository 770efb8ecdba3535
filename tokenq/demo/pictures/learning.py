"""Learning from pairs: the words, the denoising steps, or both as the actions of one response (Eq. 18).

A response is its refined prompt and the way to its picture, action by action. A loss of the table sees the actions
that a system trains, each segment at its own strength: β for words and γ for denoising steps.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tokenq.core.losses import LOSSES
from tokenq.core.losses.inputs import Scene
from tokenq.core.tensors import Actions, Outputs
from tokenq.demo.pictures.painter import PART as STEPS
from tokenq.demo.pictures.painter import denoising_loss
from tokenq.demo.pictures.pairs import Pairs, pair_step_logps, pair_word_logps
from tokenq.demo.pictures.refiner import PART as WORDS
from tokenq.demo.pictures.refiner import Refiner
from tokenq.diffusion.model import ImageModel
from tokenq.diffusion.tiny import TinyDenoiser

Adapter = Callable[[nn.Module], list[nn.Parameter]]
"""Puts trainable weights on a frozen denoiser and returns them."""

BATCH = 64
"""Pairs of a step."""

WORD_RATE, GAIN_RATE = 1e-3, 0.02
"""Peak learning rates of the refiner and of the gains of words in the denoiser."""


class WordGains(nn.Module):
    """An adapter with one number for each word: how much the denoiser heeds it.

    The log-ratio of a way to a picture has the noise of every step in it. What 6,000 labels say of one direction of the
    weights is about as large as that noise, so an adapter of few numbers can learn from it and a whole network cannot.

    Args:
        words: how many.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.logarithms = nn.Parameter(torch.zeros(words))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the embeddings [words, d] times their gains."""
        return embedding * self.logarithms.exp()[:, None]


class Strengths(NamedTuple):
    """How strongly a system is held to its reference.

    Attributes:
        beta: of words; None leaves the refiner as it is.
        gamma: of denoising steps; None leaves them out of the loss of pairs.
        anchor: weight of the denoising loss on chosen pictures (SFT).
    """

    beta: float | None = None
    gamma: float | None = None
    anchor: float = 0.0


@dataclass(frozen=True)
class Pipeline:
    """A refiner and the image model that draws its prompts."""

    refiner: Refiner
    painter: ImageModel


def word_gains(denoiser: nn.Module) -> list[nn.Parameter]:
    """Give a tiny denoiser `WordGains`, and return their logarithms."""
    assert isinstance(denoiser, TinyDenoiser)
    gains = WordGains(len(denoiser.embedding))
    parametrize.register_parametrization(denoiser, "embedding", gains)
    return [gains.logarithms]


def adapted(pipeline: Pipeline, adapter: Adapter = word_gains) -> tuple[Pipeline, list[nn.Parameter]]:
    """Return a copy with an adapter on its frozen denoiser, and the weights of it: alone they are trained of it."""
    learner = copied(pipeline)
    return learner, adapter(learner.painter.denoiser.requires_grad_(False))


def copied(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline whose weights are its own."""
    refiner = copy.copy(pipeline.refiner)
    refiner.model = copy.deepcopy(refiner.model)
    return Pipeline(refiner, replace(pipeline.painter, denoiser=copy.deepcopy(pipeline.painter.denoiser)))


def learn(
    start: Pipeline,
    pairs: Pairs,
    strengths: Strengths,
    seed: int,
    *,
    epochs: int,
    adapter: Adapter = word_gains,
) -> Iterator[Pipeline]:
    """Yield what has been learnt after every epoch: a pipeline whose weights the next epoch moves on.

    Args:
        start: the reference, which wrote and drew the pairs.
        pairs: to learn from.
        strengths: what is trained, and how strongly it is held.
        seed: of the order of pairs, and of noise.
        epochs: how often each pair is seen.
        adapter: what is trained of the image model.
    """
    generator = torch.Generator().manual_seed(seed)
    learner, gains = adapted(start, adapter)
    words = list(learner.refiner.model.parameters())
    optimizer = torch.optim.Adam([{"params": words, "lr": WORD_RATE}, {"params": gains, "lr": GAIN_RATE}])
    total = epochs * (len(pairs) // BATCH)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / (total + 1)))
    for _ in range(epochs):
        order = torch.randperm(len(pairs), generator=generator)
        for places in torch.split(order[: len(pairs) // BATCH * BATCH], BATCH):
            loss = loss_of(learner, pairs.at(places), strengths, generator)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_([*words, *gains], 1.0)
            optimizer.step()
            rate.step()
        yield learner


def loss_of(learner: Pipeline, pairs: Pairs, strengths: Strengths, generator: torch.Generator) -> Tensor:
    """Return the mean loss of some pairs: DPO on the actions that are trained, and the anchor on chosen pictures."""
    loss = torch.zeros(())
    scene = scene_of(learner, pairs, strengths)
    if scene is not None:
        sides = [model.pairs(scene.actions.pairs) for model in (scene.policy, scene.reference) if model is not None]
        loss = loss + LOSSES["dpo"].function(*sides, beta=1.0).mean()
    if strengths.anchor:
        chosen = pairs.latents[:, 0, -1], pairs.prompts[:, 0]
        loss = loss + strengths.anchor * denoising_loss(learner.painter, *chosen, generator)
    return loss


def scene_of(learner: Pipeline, pairs: Pairs, strengths: Strengths) -> Scene | None:
    """Return a batch at the strengths of its segments, as a loss with β = 1 sees it; None without an action."""
    parts: dict[str, tuple[float, Tensor, Tensor]] = {}
    if strengths.beta is not None:
        parts[WORDS] = strengths.beta, pair_word_logps(learner.refiner, pairs), pairs.word_logps
    if strengths.gamma is not None:
        parts[STEPS] = strengths.gamma, pair_step_logps(learner.painter, pairs), pairs.step_logps
    if not parts:
        return None
    segments = {name: strength for name, (strength, _, _) in parts.items()}
    policy = torch.cat([own for _, own, _ in parts.values()], -1).flatten()
    reference = torch.cat([base for _, _, base in parts.values()], -1).flatten()
    actions = pair_actions(len(pairs), [part[1].shape[-1] for part in parts.values()])
    return Scene(actions, Outputs(policy, reference), segments=segments).scaled(1.0)


def pair_actions(pairs: int, lengths: Sequence[int]) -> Actions:
    """Return the actions of pairs whose responses have segments of these lengths, one behind the other.

    Args:
        pairs: how many; chosen and rejected responses take turns.
        lengths: actions of each segment.
    """
    length, responses = sum(lengths), 2 * pairs
    column = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return Actions(
        responses=torch.arange(responses).repeat_interleave(length),
        places=torch.arange(length).repeat(responses),
        shape=(responses, length),
        roles=("chosen", "rejected") * pairs,
        pairs=torch.arange(responses).view(-1, 2),
        members=tuple((number // 2, number % 2) for number in range(responses)),
        origins=("a pair of pictures",) * responses,
        token_columns={"segments": column.repeat(responses)},
        response_columns={},
    )
