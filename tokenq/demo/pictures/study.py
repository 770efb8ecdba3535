"""One seed of the study: a world, five systems by the same labels, and what the program says of their pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenq.demo.pictures.learning import Pipeline, Strengths
from tokenq.demo.pictures.painter import careless_painter
from tokenq.demo.pictures.pairs import Pairs, labelled_pairs
from tokenq.demo.pictures.refiner import well_read
from tokenq.demo.pictures.systems import SYSTEMS, TRIED, Found, Judged, best_of, judge, together, tried
from tokenq.demo.pictures.world import Vocabulary, vocabulary
from tokenq.listener import Event, Listener, Progress
from tokenq.stats.bootstrap import Estimate, difference_interval, mean_interval


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        own: own words of an attribute.
        reading: steps of the refiner's first training.
        captions: steps of the image model's first training.
        pairs: labelled pairs.
        validation: requests by which strengths are chosen.
        test: requests by which systems are judged.
        epochs: at most, over the pairs.
        settings: strengths that each system tries.
    """

    own: int = 64
    reading: int = 300
    captions: int = 4000
    pairs: int = 6000
    validation: int = 2000
    test: int = 4000
    epochs: int = 3
    settings: Mapping[str, Sequence[Strengths]] = field(default_factory=lambda: TRIED)


QUICK = Sizes(own=16, reading=150, captions=800, pairs=1500, validation=500, test=500, epochs=1)
"""For a look within a minute."""


@dataclass(frozen=True)
class World:
    """What one seed makes.

    Attributes:
        words: of requests.
        start: the reference: a well-read refiner and a careless painter.
        pairs: labelled by the program.
        validation: [n, 3] requests by which strengths are chosen.
        test: [n, 3] requests by which systems are judged.
        paraphrased: [n, 3] the same in words that no pair contains.
        seed: of all of it.
    """

    words: Vocabulary
    start: Pipeline
    pairs: Pairs
    validation: Tensor
    test: Tensor
    paraphrased: Tensor
    seed: int


def begun(sizes: Sizes, seed: int, listener: Listener) -> World:
    """Return the world of a seed. Requests for pairs, validation and test are drawn apart from each other.

    Args:
        sizes: of everything.
        seed: of everything.
        listener: told of steps.
    """
    words = vocabulary(sizes.own, seed)
    refiner = well_read(words, seed, sizes.reading, _heard(listener, "refiner"))
    start = Pipeline(refiner, careless_painter(seed, sizes.captions, _heard(listener, "image model")))
    generator = torch.Generator().manual_seed(seed)
    asked, validation, test = unrepeated(words, [sizes.pairs, sizes.validation, sizes.test], generator)
    pairs = labelled_pairs(words, start.refiner, start.painter, asked, generator)
    return World(words, start, pairs, validation, test, words.paraphrases(test, generator), seed)


def _heard(listener: Listener, stage: str) -> Progress:
    return lambda done, total: listener(Event(stage, done, total))


def unrepeated(words: Vocabulary, counts: list[int], generator: torch.Generator) -> list[Tensor]:
    """Return lists of requests so that no request of a later list is in an earlier one."""
    found: list[Tensor] = []
    seen: set[tuple[int, ...]] = set()
    for count in counts:
        fresh = [row for row in words.requests(4 * count, generator).tolist() if tuple(row) not in seen][:count]
        seen |= set(map(tuple, fresh))
        found.append(torch.tensor(fresh))
    return found


def learnt(world: World, sizes: Sizes, listener: Listener) -> dict[str, Found]:
    """Return the five systems at their best strengths.

    Args:
        world: of the seed.
        sizes: epochs and strengths.
        listener: told of epochs, and what came of each setting.
    """
    done, total = 0, sizes.epochs * sum(map(len, sizes.settings.values()))

    def value(pipeline: Pipeline) -> float:
        return float(judge(world.words, pipeline, world.validation, world.seed + 1).rewards.float().mean())

    def epoch_over() -> None:
        nonlocal done
        done += 1
        listener(Event("epochs", done, total))

    every: dict[str, list[Found]] = {}
    for name, settings in sizes.settings.items():
        every[name] = []
        for one in tried(world.start, world.pairs, settings, sizes.epochs, world.seed, value, epoch_over):
            every[name].append(one)
            listener.say(f"{name}, {one.chosen}: {one.validation:.3f} of 3 on validation requests")
    found = {name: best_of(ones) for name, ones in every.items()}
    found["base"] = Found(world.start, Strengths(), "", value(world.start))
    found["separate"] = together(every["refiner"], every["image"], value)
    return {name: found[name] for name in SYSTEMS}


def judged(world: World, found: Mapping[str, Found], requests: Tensor) -> dict[str, Judged]:
    """Return what came of requests by each system, all from the same noise."""
    return {name: judge(world.words, one.pipeline, requests, world.seed + 2) for name, one in found.items()}


def rows(world: World, found: Mapping[str, Found]) -> list[dict[str, Any]]:
    """Return a row for each system: its score with an interval over test requests, and what else is measured."""
    on_test, on_others = (judged(world, found, requests) for requests in (world.test, world.paraphrased))
    made = []
    for name, one in found.items():
        here, there = on_test[name], on_others[name]
        score = _mean(here.rewards)
        made.append(
            {
                "system": name,
                "seed": world.seed,
                "score": score.value,
                "interval": [score.low, score.high],
                "drawn_right": _mean(here.rewards == 3),
                "prompt_right": _mean(here.worded == 3),
                "drawn_as_told": _mean(here.as_told == 3),
                "paraphrased": _mean(there.rewards),
                "fall": _difference(here.rewards, there.rewards),
                "below_joint": _difference(on_test["joint"].rewards, here.rewards),
                "below_joint_paraphrased": _difference(on_others["joint"].rewards, there.rewards),
                "strengths": one.chosen,
                "validation": one.validation,
            }
        )
    return made


def _mean(values: Tensor) -> Estimate:
    return mean_interval(values.double().numpy())


def _difference(values: Tensor, others: Tensor) -> Estimate:
    return difference_interval(values.double().numpy(), others.double().numpy())
