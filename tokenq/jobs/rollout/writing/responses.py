"""Responses to prompts: those of a round, by everybody who writes, and the greedy ones to held-out prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tokenq.data.prompts import Prompt
from tokenq.jobs.rollout.clock import Clock
from tokenq.jobs.rollout.stages import rollout_of
from tokenq.jobs.rollout.writing.written import Writing, Written
from tokenq.records.rollouts import Rollout
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.methods import OnlineMethod
from tokenq.rollout.writer import Writer
from tokenq.search.settings import Sampling

GREEDY = Sampling(temperature=0.0)


class Encoded(NamedTuple):
    """Prompts as they are written to.

    Attributes:
        prompts: as the data have them.
        ids: the same in tokens.
    """

    prompts: Sequence[Prompt]
    ids: Sequence[tuple[int, ...]]


def writing_to_prompts(
    config: OnlineConfig,
    method: OnlineMethod,
    prompts: Encoded,
    held_out: Encoded,
    writers: Mapping[str, Writer],
    text: Callable[[Sequence[int], Sequence[int]], str],
    clock: Clock,
) -> Writing:
    """Return how responses to prompts are written.

    Args:
        config: the settings.
        method: says who writes.
        prompts: those that rounds write to.
        held_out: those that the policy is evaluated on.
        writers: by their names among the method's draws.
        text: (prompt, response) in tokens → the response's text.
        clock: measures where the time goes.
    """

    def of_round(number: int, version: int, places: Sequence[int]) -> list[Written]:
        found = [list[Rollout]() for _ in places]
        for turn, draw in enumerate(method.draws):
            count = draw.count(config.samples_of_prompt)
            if not count:
                continue
            sampling = GREEDY if draw.greedy else drawn_as(config)
            writer = writers[draw.writer]
            with clock.of("writer"):
                asked = [prompts.ids[place] for place in places]
                samples = writer.write(asked, count, sampling, seed_of(config, number, turn))
            told = {"writer": draw.writer, "version": version, "use": draw.use}
            for place, rows, some in zip(places, found, samples, strict=True):
                prompt, ids = prompts.prompts[place], prompts.ids[place]
                for one in some:
                    more = {**told, "number": len(rows)}
                    rows.append(rollout_of(prompt, ids, one, text, writer.engine, sampling, **more))
        return [Written(rows) for rows in found]

    def of_evaluation(version: int, places: Sequence[int]) -> list[Written]:
        writer = writers["policy"]
        with clock.of("writer"):
            samples = writer.write([held_out.ids[place] for place in places], 1, GREEDY, config.seed)
        found = []
        for place, (sample,) in zip(places, samples, strict=True):
            prompt, ids = held_out.prompts[place], held_out.ids[place]
            found.append(Written([rollout_of(prompt, ids, sample, text, writer.engine, GREEDY, version=version)]))
        return found

    return Writing(len(prompts.prompts), of_round, of_evaluation)


def drawn_as(config: OnlineConfig) -> Sampling:
    """Return how responses are drawn."""
    return Sampling(config.sampling_temperature, config.top_k, config.top_p)


def seed_of(config: OnlineConfig, number: int, turn: int) -> int:
    """Return the seed of one of the method's draws in a round."""
    return int(np.random.SeedSequence([config.seed, number, turn]).generate_state(1)[0])
