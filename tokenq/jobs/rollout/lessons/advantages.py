"""Rounds that end in advantages: one for every token of every response, with all that a policy gradient reads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tokenq.core.credit import Moments, normalised, with_more
from tokenq.core.losses import LossSum
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.jobs.rollout.lessons.judged_tokens import CreditInputs, episodes_of, judged_tokens, names_of
from tokenq.jobs.rollout.lessons.lesson import Learning, Lesson, usable, within_accuracy
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout, advantage_row, read_advantages
from tokenq.rollout.advantages import Credited, JudgedTokens, credited, without_signal
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import is_grouped

ADVANTAGES = "advantages.jsonl"

RETURNS = "returns.jsonl"
"""The moments of the returns of all rounds so far, where a value network learns normalised ones."""

OUTCOMES = "outcomes"
"""The rewards of responses as a process reward model learns from them."""

_CUT = {"drop": "dropped", "mask": "masked", "zero": "zeroed", "bootstrap": "bootstrapped"}
"""What became of responses that were cut, in the numbers of a round."""


def learning_from_advantages(inputs: CreditInputs) -> Learning:
    """Return how rounds end in advantages."""

    def read(place: Path) -> list[TokenGroup]:
        return read_advantages(place / ADVANTAGES)

    return Learning("responses", partial(_lesson, inputs), read, takes_all=True)


def _lesson(inputs: CreditInputs, number: int, rollouts: Sequence[Rollout]) -> Lesson:
    """Return what the responses of a round teach."""
    config, loss = inputs.config, inputs.loss
    (own, filtered), names = within_accuracy(usable(rollouts, config), config.filter_accuracy), names_of(rollouts)
    before = _moments(inputs, number)
    if not own:
        return Lesson([], {ADVANTAGES: [], **_kept(before, config)}, [0 for _ in names], filtered)
    with inputs.scoring.clock.of("trainer"):
        tokens = judged_tokens(inputs, own, before)
        found = credited(tokens, config, config.beta or 0.0)
    after = before
    if config.normalise_values and found.returns is not None:
        after = with_more(before, found.returns[tokens.mask])
    grouped = is_grouped(config) and config.credit_span == "token"
    idle = dict(zip(names_of(own), without_signal(tokens, found.advantages, grouped=grouped), strict=True))
    cut = {at for some in episodes_of(own) for at in some if own[some[-1]].finish == "length"}
    masked = [config.truncated == "mask" and at in cut for at in range(len(own))]
    learnt = [at for at, is_masked in enumerate(masked) if not is_masked]
    counts = {name: 0 for name in names}
    for one in (own[at] for at in learnt):
        counts[one.id] += not idle[one.id]
    if not any(counts.values()):
        learnt = []
    columns = _of_parts(_columns(tokens, found, loss, (before, after)), own)
    rows = [(own[at], _response(own[at], columns[at], loss)) for at in learnt]
    lines = [advantage_row(one, number, _where(number, one), response) for one, response in rows]
    numbers = found.numbers | filtered | _of_cut(config.truncated, rollouts)
    return Lesson(_groups(number, rows), {ADVANTAGES: lines, **_kept(after, config)}, list(counts.values()), numbers)


def _moments(inputs: CreditInputs, number: int) -> Moments:
    """Return the moments of the returns of all rounds before one, as the last of them left them."""
    if not inputs.config.normalise_values or number == 1:
        return Moments()
    (line,) = JsonLines(inputs.run.round(number - 1) / RETURNS).read()
    return Moments(**line)


def _kept(moments: Moments, config: OnlineConfig) -> dict[str, list[dict[str, float]]]:
    """Return the file that keeps the moments for the next round."""
    return {RETURNS: [moments._asdict()]} if config.normalise_values else {}


def _of_cut(how: str, rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return what became of how many responses that were cut."""
    count = sum(one.compared and one.finish == "length" for one in rollouts)
    return {f"truncated_{_CUT[how]}": float(count)} if how in _CUT else {}


def _columns(
    tokens: JudgedTokens, found: Credited, loss: LossSum, moments: tuple[Moments, Moments]
) -> dict[str, Tensor]:
    """Return what the loss reads beside tokens, and what its metrics do: [N, T] by name.

    Args:
        tokens: the responses.
        found: what they are credited with.
        loss: what is minimised.
        moments: of the returns before this round and with it: a value network says and learns normalised ones.
    """
    every = {"old_logps": tokens.logps, "advantages": found.advantages}
    if found.returns is not None and tokens.values is not None:
        every["returns"] = normalised(found.returns, moments[1])
        every["old_values"] = normalised(tokens.values, moments[0])
    if loss.reference and tokens.ref_logps is not None:
        every["ref_logps"] = tokens.ref_logps
    return every


def _of_parts(columns: Mapping[str, Tensor], rollouts: Sequence[Rollout]) -> list[dict[str, list[float]]]:
    """Return the numbers of each response's own tokens, by name, of columns of whole episodes."""
    found = []
    for row, some in enumerate(episodes_of(rollouts)):
        start = 0
        for size in (rollouts[at].length for at in some):
            found.append({name: column[row, start : start + size].tolist() for name, column in columns.items()})
            start += size
    return found


def _response(one: Rollout, columns: Mapping[str, Sequence[float]], loss: LossSum) -> TokenResponse:
    """Return a response with its columns: those of its tokens, and its outcome where the loss reads that.

    Args:
        one: the response.
        columns: numbers of its own tokens, by name.
        loss: says what it reads.

    Raises:
        UserError: the outcome is none.
    """
    own = {name: np.array(one.spread(column), np.float32) for name, column in columns.items()}
    found = replace(one.tokens("plain"), token_columns=own)
    if OUTCOMES not in loss.inputs:
        return found
    if one.reward is None or not 0 <= one.reward <= 1:
        raise UserError(
            f"The judge gives {one.reward} to response {one.number} of prompt {one.id}, and a process reward model "
            "learns from outcomes between 0 and 1.",
            "Judge by true answers (--answer, --gold), or by a function that returns such numbers.",
        )
    return found.with_response_column(OUTCOMES, one.reward)


def _groups(number: int, rows: Sequence[tuple[Rollout, TokenResponse]]) -> list[TokenGroup]:
    """Return the responses to each prompt as a group."""
    prompts: dict[str, NDArray[np.int32]] = {}
    found: dict[str, list[TokenResponse]] = {}
    for one, response in rows:
        where = _where(number, one)
        prompts[where] = np.array(one.prompt_ids, np.int32)
        found.setdefault(where, []).append(response)
    return [TokenGroup(prompts[where], tuple(some), False, where) for where, some in found.items()]


def _where(number: int, one: Rollout) -> str:
    part = f", response {one.number}, part {one.part}" if one.part else ""
    return f"round {number}, prompt {one.id}{part}"
