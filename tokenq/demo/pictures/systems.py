"""Five systems that learn from the same labels: none, words alone, drawing alone, both apart, both together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tokenq.demo.pictures.learning import Pipeline, Strengths, copied, learn
from tokenq.demo.pictures.painter import paint
from tokenq.demo.pictures.pairs import Pairs
from tokenq.demo.pictures.world import Vocabulary, drawn

TRIED: Mapping[str, Sequence[Strengths]] = {
    "refiner": (Strengths(0.05), Strengths(0.1)),
    "image": (Strengths(gamma=0.003), Strengths(gamma=0.01, anchor=1.0)),
    "joint": (Strengths(0.05, 0.003), Strengths(0.05, 0.01, 1.0)),
}
"""The strengths that each system tries; after each epoch of each, validation requests say which is best."""

SYSTEMS = ("base", "refiner", "image", "separate", "joint")
"""In the order of the table. "separate" puts a refiner and an image model together that learnt alone."""


class Judged(NamedTuple):
    """What came of requests, one for each.

    Attributes:
        rewards: [n] how many of colour, shape and place are drawn as the labeller means them.
        worded: [n] the same of the refined prompt.
        as_told: [n] how many are drawn as the prompt says.
    """

    rewards: Tensor
    worded: Tensor
    as_told: Tensor


def judge(words: Vocabulary, pipeline: Pipeline, requests: Tensor, seed: int) -> Judged:
    """Have requests drawn, from the same noise for every pipeline, and return what the program says of it.

    Args:
        words: of requests.
        pipeline: refines and draws.
        requests: [n, 3] words by number.
        seed: of prompts, initial noise and steps.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(requests), *pipeline.painter.shape), generator=generator)
    prompts = pipeline.refiner.write(requests, generator)
    seen = drawn(paint(pipeline.painter, prompts, noise, generator)[:, -1])
    wanted = words.values(requests)
    return Judged(*((one == other).sum(1) for one, other in ((seen, wanted), (prompts, wanted), (seen, prompts))))


@dataclass(frozen=True)
class Found:
    """A system at the strengths that did best on validation requests.

    Attributes:
        pipeline: the system.
        strengths: its strengths.
        chosen: the same with the number of epochs, in words.
        validation: the mean reward that they were chosen by.
    """

    pipeline: Pipeline
    strengths: Strengths
    chosen: str
    validation: float


def best_of(found: Sequence[Found]) -> Found:
    """Return what did best on validation requests; the first of equals."""
    return max(found, key=lambda one: one.validation)


def tried(
    start: Pipeline,
    pairs: Pairs,
    settings: Sequence[Strengths],
    epochs: int,
    seed: int,
    value: Callable[[Pipeline], float],
    progress: Callable[[], None],
) -> Iterator[Found]:
    """Yield for each setting the system after its best epoch.

    Args:
        start: the reference.
        pairs: to learn from.
        settings: strengths to try.
        epochs: at most.
        seed: of the order of pairs, and of noise.
        value: the mean reward on validation requests.
        progress: told of every epoch that is over.
    """
    for strengths in settings:
        best: Found | None = None
        for epoch, learner in enumerate(learn(start, pairs, strengths, seed, epochs=epochs), 1):
            worth = value(learner)
            progress()
            if best is None or worth > best.validation:
                best = Found(
                    copied(learner),
                    strengths,
                    f"{said(strengths)}, {epoch} {'epoch' if epoch == 1 else 'epochs'}",
                    worth,
                )
        assert best is not None
        yield best


def said(strengths: Strengths) -> str:
    """Return the strengths in words."""
    names = {"beta": "β", "gamma": "γ", "anchor": "anchor"}
    return ", ".join(f"{names[name]} {value:g}" for name, value in strengths._asdict().items() if value)


def together(refiners: Sequence[Found], painters: Sequence[Found], value: Callable[[Pipeline], float]) -> Found:
    """Return the refiner and the image model, each learnt alone, that do best on validation requests as a pipeline."""
    found = []
    for one in refiners:
        for other in painters:
            both = Pipeline(one.pipeline.refiner, other.pipeline.painter)
            strengths = other.strengths._replace(beta=one.strengths.beta)
            found.append(Found(both, strengths, f"{one.chosen}; {other.chosen}", value(both)))
    return best_of(found)
