"""What a reward model says of whole rows of tokens, and of texts: as `tokenq score` reads them, at the last token."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tokenq.core.packing import pack, plan_pass
from tokenq.errors import UserError
from tokenq.jobs.reader import Reader
from tokenq.jobs.searcher import TextReward
from tokenq.models.reward_model import text_ids
from tokenq.records.examples import Text, TokenGroup, TokenResponse
from tokenq.score.rewards import RewardReader


def judge_of(reader: Reader) -> TextReward | None:
    """Return what judges texts for a search; None where no reward model is served."""
    rewards, tokenizer = reader.rewards, reader.tokenizer
    if rewards is None:
        return None
    weights = np.asarray(rewards.weights)

    def judge(prompts: Sequence[Text], responses: Sequence[str]) -> Sequence[float]:
        both = zip(prompts, responses, strict=True)
        rows = [text_ids(tokenizer, prompt, response, ended=True, eos=True) for prompt, response in both]
        return [float(np.asarray(one) @ weights) for one in last_outputs(reader, rows)]

    return judge


def last_outputs(reader: Reader, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return all outputs of the reward model at the last token of each row.

    Raises:
        UserError: no reward model is served.
    """
    return [one[-1] for one in _read(reader, rows, every=False)]


def every_output(reader: Reader, rows: Sequence[Sequence[int]]) -> list[list[list[float]]]:
    """Return all outputs of the reward model at every token of each row.

    Raises:
        UserError: no reward model is served.
    """
    return _read(reader, rows, every=True)


def rewards_of(reader: Reader) -> RewardReader:
    """Return the reward model.

    Raises:
        UserError: none is served.
    """
    if reader.rewards is None:
        raise no_reward_model()
    return reader.rewards


def no_reward_model() -> UserError:
    """Return the error for what only a reward model says."""
    return UserError("No reward model is served.", "It is named at the start: tokenq serve --reward-model MODEL.")


def _read(reader: Reader, rows: Sequence[Sequence[int]], *, every: bool) -> list[list[list[float]]]:
    read = rewards_of(reader).read
    groups = [_group(row, every) for row in rows]
    found: dict[int, Any] = {}
    for places in plan_pass([group.n_tokens for group in groups], reader.options.tokens_per_batch):
        with torch.no_grad():
            outputs = read(pack([groups[place] for place in places])).double().cpu()
        sizes = [int(groups[place].responses[0].mask.sum()) for place in places]
        found |= {place: one.tolist() for place, one in zip(places, torch.split(outputs, sizes), strict=True)}
    return [found[place] for place in range(len(rows))]


def _group(row: Sequence[int], every: bool) -> TokenGroup:
    """Return a row read at its last token, or at all of them: what "predicts" a target is the state one before it."""
    ids = np.asarray([*row[1:], row[-1]], np.int32)
    mask = np.ones(len(ids), np.bool_) if every else np.arange(len(ids)) == len(ids) - 1
    return TokenGroup(np.asarray(row[:1], np.int32), (TokenResponse(ids, mask, terminal=False),), False, "a text")
