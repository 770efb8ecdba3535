"""Rounds that end in advantages: one for every token of every response, with all that a policy gradient reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenq.core.credit import Moments, denormalised, normalised, with_more
from tokenq.core.losses import LossSum
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.jobs.rollout.judges import each_rollout
from tokenq.jobs.rollout.lessons.lesson import Learning, Lesson, Scoring, usable, within_accuracy
from tokenq.jobs.rollout.token_rewards import TokenRewards
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout, advantage_row, read_advantages
from tokenq.rollout.advantages import Credited, JudgedTokens, credited, without_signal
from tokenq.rollout.config import OnlineConfig
from tokenq.rollout.credits import is_grouped
from tokenq.rundir import RunDir

ADVANTAGES = "advantages.jsonl"

RETURNS = "returns.jsonl"
"""The moments of the returns of all rounds so far, where a value network learns normalised ones."""

OUTCOMES = "outcomes"
"""The rewards of responses as a process reward model learns from them."""

_CUT = {"drop": "dropped", "mask": "masked", "zero": "zeroed", "bootstrap": "bootstrapped"}
"""What became of responses that were cut, in the numbers of a round."""


class CreditInputs(NamedTuple):
    """What rounds are credited by.

    Attributes:
        config: the settings, none of them open.
        scoring: the models.
        loss: what is minimised.
        values: V before each target of a batch, by the value network as it is; None without one.
        token_rewards: dense rewards of responses; None without.
        exact: whether the log-probs that come with responses are the trainer's own, to rounding.
        run: the folder of the run, for what earlier rounds left.
    """

    config: OnlineConfig
    scoring: Scoring
    loss: LossSum
    values: TokenScorer | None
    token_rewards: TokenRewards | None
    exact: bool
    run: RunDir


def learning_from_advantages(inputs: CreditInputs) -> Learning:
    """Return how rounds end in advantages."""

    def read(place: Path) -> list[TokenGroup]:
        return read_advantages(place / ADVANTAGES)

    return Learning("responses", partial(_lesson, inputs), read, takes_all=True)


def _lesson(inputs: CreditInputs, number: int, rollouts: Sequence[Rollout]) -> Lesson:
    """Return what the responses of a round teach."""
    config, loss = inputs.config, inputs.loss
    (own, filtered), names = within_accuracy(usable(rollouts, config), config.filter_accuracy), _names(rollouts)
    before = _moments(inputs, number)
    if not own:
        return Lesson([], {ADVANTAGES: [], **_kept(before, config)}, [0 for _ in names], filtered)
    with inputs.scoring.clock.of("trainer"):
        tokens = _judged_tokens(inputs, own, before)
        found = credited(tokens, config, config.beta or 0.0)
    after = before
    if config.normalise_values and found.returns is not None:
        after = with_more(before, found.returns[tokens.mask])
    idle = dict(zip(_names(own), without_signal(tokens, found.advantages, grouped=is_grouped(config)), strict=True))
    masked = [config.truncated == "mask" and one.finish == "length" for one in own]
    learnt = [at for at, is_masked in enumerate(masked) if not is_masked]
    counts = {name: 0 for name in names}
    for one in (own[at] for at in learnt):
        counts[one.id] += not idle[one.id]
    if not any(counts.values()):
        learnt = []
    columns = _columns(tokens, found, loss, (before, after))
    rows = [(own[at], _response(own[at], at, columns, loss)) for at in learnt]
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


def _judged_tokens(inputs: CreditInputs, rollouts: Sequence[Rollout], moments: Moments) -> JudgedTokens:
    """Return the responses with all that credit is made of, as the models say it now.

    Args:
        inputs: the models and settings.
        rollouts: the responses.
        moments: of the returns that the value network has learnt.
    """
    config, scoring = inputs.config, inputs.scoring

    def read(scorer: TokenScorer, laid_out: Callable[[TokenGroup], TokenGroup] = lambda group: group) -> Tensor:
        own = each_rollout(rollouts, _by_response(scorer), config.tokens_per_batch, scoring.device, laid_out)
        return _padded(own)

    names = {name: number for number, name in enumerate(_names(rollouts))}
    given = _padded([one.logps for one in rollouts])
    lengths = torch.tensor([len(one.token_ids) for one in rollouts])
    cut = torch.tensor([one.finish == "length" for one in rollouts])
    rewards = torch.tensor([one.reward for one in rollouts], dtype=torch.float64)
    states = None if inputs.values is None else denormalised(read(inputs.values, _with_last_state), moments)
    bootstrap = None
    if states is not None and config.truncated == "bootstrap":
        bootstrap = torch.where(cut, states.gather(1, lengths[:, None])[:, 0], 0.0)
    return JudgedTokens(
        torch.where(cut, 0.0, rewards) if config.truncated == "zero" else rewards,
        torch.tensor([names[one.id] for one in rollouts]),
        torch.arange(given.shape[1]) < lengths[:, None],
        given if inputs.exact else read(scoring.policy),
        read(scoring.reference) if inputs.loss.reference or config.kl == "reward" else None,
        given if config.importance_correction != "none" else None,
        None if inputs.token_rewards is None else _padded(inputs.token_rewards(rollouts)),
        None if states is None else states[:, :-1],
        bootstrap,
    )


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


def _response(one: Rollout, row: int, columns: Mapping[str, Tensor], loss: LossSum) -> TokenResponse:
    """Return a response with its columns: those of its tokens, and its outcome where the loss reads that.

    Raises:
        UserError: the outcome is none.
    """
    length = len(one.token_ids)
    own = {name: column[row, :length].numpy().astype(np.float32) for name, column in columns.items()}
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
    return f"round {number}, prompt {one.id}"


def _names(rollouts: Sequence[Rollout]) -> list[str]:
    return list(dict.fromkeys(one.id for one in rollouts))


def _by_response(scorer: TokenScorer) -> Callable[[PackedBatch], Iterator[list[float]]]:
    """Return what reads a number for each token of a batch, by response."""

    def read(batch: PackedBatch) -> Iterator[list[float]]:
        sizes = torch.bincount(batch.actions.responses.cpu(), minlength=batch.actions.shape[0]).tolist()
        with torch.no_grad():
            flat = scorer(batch).double().cpu()
        yield from (own.tolist() for own in torch.split(flat, sizes))

    return read


def _with_last_state(group: TokenGroup) -> TokenGroup:
    """Return a group with one more target behind each response, which is read in the state after its last token."""

    def longer(one: TokenResponse) -> TokenResponse:
        return replace(one, ids=np.append(one.ids, one.ids[-1:]), mask=np.append(one.mask, True))

    return group.map(longer)


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return rows of numbers as [N, T], 0 behind the end of each."""
    found = np.zeros((len(rows), max(map(len, rows))))
    for row, numbers in zip(found, rows, strict=True):
        row[: len(numbers)] = numbers
    return torch.from_numpy(found)
