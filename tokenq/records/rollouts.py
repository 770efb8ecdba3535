"""What a round of an online run leaves on disk: what was written, what it was worth, and what is learnt from it.

A line of `rollouts.jsonl` is one response, token by token, with the version of the weights that wrote it. A line of
`pairs.jsonl` is a pair, one of `advantages.jsonl` a response, with all that the loss reads beside it. Token ids are
what was sampled: nothing is tokenised again. Plain Python and numpy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.records.examples import Message, Role, Text, TokenGroup, TokenResponse

T = TypeVar("T")

Finish = Literal["stop", "length"]
"""How a response ended: with an EOS of its own, or where no more tokens were allowed."""

Distribution = Literal["model", "sampler"]
"""What log-probs are of: the policy, or what temperature and filters make of it."""


class TurnSpan(NamedTuple):
    """What the policy did in one turn of an episode.

    Attributes:
        start: the place of its first token among those of the response.
        end: one past its last.
        reward: what the environment gave for it.
    """

    start: int
    end: int
    reward: float


@dataclass(frozen=True)
class Rollout:
    """One response that a writer wrote, or an episode: the first observation is the prompt, the rest the response.

    Attributes:
        id: of its prompt.
        number: which of the prompt's responses it is, from 0.
        prompt: as the data have it, a string or turns.
        response: its text, without special tokens.
        prompt_ids: the prompt as the writer read it.
        token_ids: what was sampled, EOS included; in an episode with what the environment answered in between.
        logps: of each token under the weights that wrote it, in the distribution that `logps_of` names; 0 where the
            policy did not write it.
        kept_mass: the probability that filters left at each token, in the tempered distribution; None without filters,
            or where a writer does not tell.
        finish: how it ended.
        writer: "policy", "reference", or "data" for one that was there before.
        version: updates that the weights had seen.
        sampling: temperature and filters.
        engine: what computed it, and in which type.
        use: whether it is compared with others, read to calibrate pairs, or both.
        reward: what it is worth; None where nobody judged it, or the judge gave no number.
        judge: who said so.
        logps_of: "model" for log π, before temperature and filters; "sampler" for what was drawn from.
        own: for each token whether the policy wrote it; None where it wrote all of them.
        turns: of an episode.
        part: which part of an episode this is, from 0, where the template wrote the past anew.
        condition: the levels of attributes that its prompt asks for, which `prompt` does not say.
    """

    id: str
    number: int
    prompt: Text
    response: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    kept_mass: tuple[float, ...] | None
    finish: Finish
    writer: str
    version: int
    sampling: Mapping[str, float]
    engine: str
    use: Literal["compared", "calibration", "both"]
    reward: float | None = None
    judge: str | None = None
    logps_of: Distribution = "model"
    own: tuple[bool, ...] | None = None
    turns: tuple[TurnSpan, ...] = ()
    part: int = 0
    condition: Mapping[str, int] = field(default_factory=dict)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True = a token that the policy wrote."""
        return np.ones(len(self.token_ids), np.bool_) if self.own is None else np.array(self.own, np.bool_)

    @property
    def length(self) -> int:
        """How many tokens the policy wrote."""
        return len(self.token_ids) if self.own is None else sum(self.own)

    def written(self, column: Sequence[T]) -> Sequence[T]:
        """Return those of a column of tokens that stand at tokens of the policy."""
        return column if self.own is None else tuple(compress(column, self.own))

    def spread(self, column: Iterable[float]) -> tuple[float, ...]:
        """Return a number for every token: those of the policy's tokens at their places, 0 elsewhere."""
        numbers = iter(column)
        return tuple(next(numbers) if own else 0.0 for own in self.mask)

    @property
    def compared(self) -> bool:
        """Whether it may become a side of a pair."""
        return self.use != "calibration"

    @property
    def calibrates(self) -> bool:
        """Whether pairs of its prompt are calibrated on it."""
        return self.use != "compared"

    def to_dict(self) -> dict[str, Any]:
        """Return the line of `rollouts.jsonl`."""
        return {**_without_idle(vars(self)), "prompt": _plain(self.prompt)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Rollout":
        """Return the response of a line."""
        given = row["prompt"]
        prompt = given if isinstance(given, str) else tuple(map(Message.from_dict, given))
        values = {name: row[name] for name in cls.__dataclass_fields__ if name in row or name not in _OF_EPISODES}
        if "own" in row:
            values |= {"own": tuple(row["own"]), "turns": tuple(TurnSpan(*turn) for turn in row["turns"])}
        tuples = {name: tuple(row[name]) for name in ("prompt_ids", "token_ids", "logps")}
        mass = row["kept_mass"]
        return cls(**values | tuples | {"prompt": prompt, "kept_mass": None if mass is None else tuple(mass)})

    def tokens(self, role: Role) -> TokenResponse:
        """Return the response in token space."""
        return TokenResponse(np.array(self.token_ids, np.int32), self.mask, self.finish == "stop", role)


_OF_EPISODES: Mapping[str, Any] = {"own": None, "turns": (), "part": 0, "condition": {}}
"""What only episodes, or conditioned prompts, have, and what stands there for others, in whose lines nothing does."""


def _without_idle(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _OF_EPISODES or value != _OF_EPISODES[name]}


def _plain(text: Text) -> Any:
    if isinstance(text, str):
        return text
    return [turn.to_dict() for turn in text]


ROLES: tuple[Role, ...] = ("chosen", "rejected", "calibration")
"""The parts that responses of a stored pair play, in their order."""

REF_LOGPS = "ref_logps"


def pair_row(group: TokenGroup, number: int, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a pair: token ids, masks and reference log-probs of each of its responses.

    Args:
        group: the pair, with the token column `ref_logps` where the loss reads it.
        number: of the round that it comes from; 0 for data that were there before.
        beside: further columns, for readers (texts, rewards).
    """
    row = {**beside, "round": number, "where": group.where, "prompt_ids": group.prompt_ids.tolist()}
    for response in group.responses:
        name = response.role
        row |= {f"{name}_ids": response.ids.tolist(), f"{name}_terminal": response.terminal}
        if not response.mask.all():
            row[f"{name}_mask"] = response.mask.tolist()
        if REF_LOGPS in response.token_columns:
            row[f"{name}_{REF_LOGPS}"] = [float(value) for value in response.token_columns[REF_LOGPS]]
    return row


def read_pairs(path: Path) -> list[TokenGroup]:
    """Return the pairs of a file, as they were written to the last bit.

    Raises:
        UserError: a line is no such pair.
    """
    groups = []
    for number, row in enumerate(JsonLines(path).read(), 1):
        try:
            responses = tuple(_response(row, role) for role in ROLES if f"{role}_ids" in row)
            groups.append(TokenGroup(_ints(row["prompt_ids"]), responses, True, str(row["where"])))
        except (KeyError, TypeError, ValueError) as problem:
            raise UserError(f"{path}, line {number}: no pair of an online run ({problem!r}).", _RESTORE) from None
    return groups


_RESTORE = "Restore the file, or start a new run."


def advantage_row(one: Rollout, number: int, where: str, tokens: TokenResponse) -> dict[str, Any]:
    """Return the line of a response that has an advantage for each token.

    Args:
        one: the response.
        number: of the round that it comes from.
        where: the name of its prompt in messages.
        tokens: the same with what a loss reads beside its tokens, and beside the whole of it.
    """
    told = {"id": one.id, "number": one.number, "round": number, "where": where}
    told |= {"prompt": _plain(one.prompt), "response": one.response, "reward": one.reward}
    told |= {"prompt_ids": list(one.prompt_ids), "token_ids": list(one.token_ids), "terminal": one.finish == "stop"}
    told |= {} if one.own is None else {"mask": list(one.own)}
    told |= {name: [float(value) for value in column] for name, column in tokens.token_columns.items()}
    return told | {name: float(value) for name, value in tokens.response_columns.items()}


_TOLD = frozenset(
    ("id", "number", "round", "where", "prompt", "response", "reward", "prompt_ids", "token_ids", "terminal", "mask")
)
"""What stands in such a line beside the columns."""


def read_advantages(path: Path, column: str = "advantages") -> list[TokenGroup]:
    """Return the responses of a file, those of a prompt together, with their columns as written to the last bit.

    Args:
        path: the file.
        column: what every response has a number of at each token.

    Raises:
        UserError: a line is no such response.
    """
    found: dict[str, list[TokenResponse]] = {}
    prompts: dict[str, NDArray[np.int32]] = {}
    for number, row in enumerate(JsonLines(path).read(), 1):
        try:
            where = str(row["where"])
            prompts[where] = _ints(row["prompt_ids"])
            found.setdefault(where, []).append(_credited(row, column))
        except (KeyError, TypeError, ValueError) as problem:
            message = f"{path}, line {number}: no response with {column} ({problem!r})."
            raise UserError(message, _RESTORE) from None
    return [TokenGroup(prompts[where], tuple(some), False, where) for where, some in found.items()]


def _credited(row: Mapping[str, Any], column: str) -> TokenResponse:
    ids = _ints(row["token_ids"])
    columns = {name: np.array(value, np.float32) for name, value in row.items() if name not in _TOLD}
    tokens = {name: one for name, one in columns.items() if one.ndim}
    if column not in tokens or any(one.shape != ids.shape for one in tokens.values()):
        raise ValueError("not a number for each token")
    whole = {name: float(one) for name, one in columns.items() if name not in tokens}
    mask = np.array(row.get("mask", [True] * len(ids)), np.bool_)
    return TokenResponse(ids, mask, bool(row["terminal"]), "plain", tokens, whole)


def _response(row: Mapping[str, Any], role: Role) -> TokenResponse:
    ids = _ints(row[f"{role}_ids"])
    mask = np.array(row.get(f"{role}_mask", [True] * len(ids)), np.bool_)
    ref_logps = row.get(f"{role}_{REF_LOGPS}")
    columns = {} if ref_logps is None else {REF_LOGPS: np.array(ref_logps, np.float32)}
    return TokenResponse(ids, mask, bool(row[f"{role}_terminal"]), role, columns)


def _ints(values: Sequence[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)
