"""Rounds that end in weights: how much each response counts for the policy that would write what is asked for.

w_i ∝ P(a|x, y_i) P(y_i|x)/Q'(y_i|a, x) over the responses to a prompt (SteerLM 2.0): the judge says log P(a|x, y), the
reference log P(y|x) behind the prompt that asks for nothing, the policy of the round's start is Q' and wrote them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tokenq.core.steerlm import effective_samples, target_weights
from tokenq.jobs.rollout.judges import response_logps
from tokenq.jobs.rollout.lessons.lesson import Learning, Lesson, Scoring, usable
from tokenq.jobs.rollout.sampled import with_model_logps
from tokenq.records.examples import TokenGroup
from tokenq.records.rollouts import Rollout, advantage_row, read_advantages
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.learning import by_prompt

WEIGHTS = "weights.jsonl"

COLUMN = "target_weights"

Bare = Mapping[str, tuple[int, ...]]
"""The tokens of each prompt as it stands where nothing is asked for, by its id."""


def learning_from_weights(config: OnlineConfig, scoring: Scoring, bare: Bare) -> Learning:
    """Return how rounds end in weights.

    Args:
        config: the settings.
        scoring: the models.
        bare: prompts that ask for nothing.
    """

    def read(place: Path) -> list[TokenGroup]:
        return read_advantages(place / WEIGHTS, COLUMN)

    asks_nothing = partial(_asking_nothing, bare)
    return Learning("weights", partial(_lesson, config, scoring, bare), read, takes_all=True, referred=asks_nothing)


def _asking_nothing(bare: Bare, rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [replace(one, prompt_ids=bare[one.id]) for one in rollouts]


def _lesson(config: OnlineConfig, scoring: Scoring, bare: Bare, number: int, rollouts: Sequence[Rollout]) -> Lesson:
    """Return what the responses of a round teach: those to each prompt with their weights."""
    names = list(dict.fromkeys(one.id for one in rollouts))
    several = [some for some in by_prompt(usable(rollouts, config)) if len(some) > 1]
    own = with_model_logps([one for some in several for one in some], scoring.policy, scoring.device)
    with scoring.clock.of("trainer"):
        plain = _asking_nothing(bare, own)
        prior = response_logps(plain, scoring.reference, config.tokens_per_batch, scoring.device)
    groups, lines, effective, start = list[TokenGroup](), list[dict[str, object]](), list[float](), 0
    for some in several:
        part = slice(start, start := start + len(some))
        weights = _weights(own[part], prior[part])
        effective.append(float(effective_samples(weights)))
        where = f"round {number}, prompt {some[0].id}"
        responses = [
            replace(
                one.tokens("plain"),
                token_columns={
                    "old_logps": np.array(one.logps, np.float32),
                    COLUMN: np.full(len(one.token_ids), weight, np.float32),
                },
            )
            for one, weight in zip(own[part], weights.tolist(), strict=True)
        ]
        groups.append(TokenGroup(np.array(some[0].prompt_ids, np.int32), tuple(responses), False, where))
        lines += [advantage_row(one, number, where, two) for one, two in zip(own[part], responses, strict=True)]
    taught = {some[0].id for some in several}
    numbers = {
        "effective_samples": sum(effective) / max(1, len(effective)),
        "compared": len(own) / max(1, len(several)),
    }
    return Lesson(groups, {WEIGHTS: lines}, [int(name in taught) for name in names], numbers)


def _weights(rollouts: Sequence[Rollout], prior: Sequence[float]) -> torch.Tensor:
    """Return the weights of the responses to one prompt, in float64."""
    rewards = torch.tensor([one.reward for one in rollouts], dtype=torch.float64)
    proposal = torch.tensor([sum(one.logps) for one in rollouts], dtype=torch.float64)
    return target_weights(rewards, torch.tensor(prior, dtype=torch.float64), proposal)
