"""Episodes at rest: what an environment said and a policy did, turn by turn, token by token.

A line of a file of episodes is one episode. Token ids are what the policy read and sampled: nothing is tokenised again.
Plain Python.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from tokenq.errors import UserError
from tokenq.records.examples import Message, Text
from tokenq.records.rollouts import Distribution, Finish
from tokenq.records.schema import SCHEMA, built, check_schema, json_lines, whole

Told = str | tuple[Mapping[str, Any], ...]
"""What an environment said as JSON has it: a text, or messages as OpenAI has them."""

Reason = Literal["terminated", "truncated", "turn limit", "context", "error", "timeout"]
"""How an episode ended: the environment came to an end, or cut it; the most turns were taken; the model's context was
full; the environment failed; it took too long over a step."""


def told(observation: Text) -> Told:
    """Return an observation as JSON has it."""
    return observation if isinstance(observation, str) else tuple(turn.to_dict() for turn in observation)


def untold(observation: Told) -> Text:
    """Return the observation of what `told` gave."""
    return observation if isinstance(observation, str) else tuple(map(Message.from_dict, observation))


@dataclass(frozen=True)
class Turn:
    """What the environment said, what the policy answered, and what that brought.

    Attributes:
        observation: what the environment said before the action.
        observation_ids: tokens between the action before and this one; the whole prompt in a first turn, and in one
            that starts over.
        action: what the policy wrote, without special tokens.
        action_ids: what was sampled, EOS included.
        logps: of each token of the action under the weights that wrote it, in nats, in the distribution that
            `Episode.logps_of` names.
        finish: how the action ended: by EOS, or where no more tokens were allowed.
        reward: what the environment gave for the action.
        pieces: what each token of the action adds to its text.
        starts_over: whether the template wrote the past anew, so that what was read before is no prefix.
        kept_mass: the probability that filters left at each token; None without filters, or unknown.
        implicit: β log π/π_ref of each token of the action; None where no reference was read.
        info: what the environment said beside: "invalid" for an action in the wrong format, …; and "cut_turns": how
            many turns were left out of what was read, as the context was full.
    """

    observation: Told
    observation_ids: tuple[int, ...]
    action: str
    action_ids: tuple[int, ...]
    logps: tuple[float, ...]
    finish: Finish
    reward: float
    pieces: tuple[str, ...] = ()
    starts_over: bool = False
    kept_mass: tuple[float, ...] | None = None
    implicit: tuple[float, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


class Segment(NamedTuple):
    """Turns whose tokens follow each other: one sequence of tokens to learn from.

    Attributes:
        prompt_ids: tokens before the first action.
        token_ids: [n] the rest: actions, and what was said between them.
        own: [n] True = a token that the policy wrote.
        logps: [n] of the policy's tokens, in nats; 0 at the others.
        turns: [n] which turn of the episode a token belongs to; what is said before an action is of its turn.
        first: number of the first of these turns.
        rewards: of each of them.
        finish: how the last action ended.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    own: tuple[bool, ...]
    logps: tuple[float, ...]
    turns: tuple[int, ...]
    first: int
    rewards: tuple[float, ...]
    finish: Finish


@dataclass(frozen=True)
class Episode:
    """One episode, from the first observation to its end.

    Attributes:
        id: "ENVIRONMENT seed S"; the same for all episodes that begin alike.
        environment: name of the environment.
        options: what it was made with.
        seed: what it was reset with.
        number: which of the episodes with this seed it is, from 0.
        turns: what was said and done.
        observation: what the environment said last, which no action followed; None where that is unknown.
        terminal: whether the environment came to its end.
        reason: how the episode ended.
        success: whether it reached what it was for; None where the environment does not say.
        luck: what draws of the environment added to the return beyond their expectation, where it knows that.
        writer: "policy" or "reference".
        version: updates that the weights had seen.
        sampling: temperature and filters.
        engine: what computed it, and in which type.
        logps_of: "model" for log π, before temperature and filters; "sampler" for what was drawn from.
        instructions: the system text before the first observation.
        tools: schemas of the tools that the policy was shown.
        error: what the environment failed with; None where it did not.
    """

    id: str
    environment: str
    options: Mapping[str, Any]
    seed: int
    number: int
    turns: tuple[Turn, ...]
    observation: Told | None
    terminal: bool
    reason: Reason
    success: bool | None
    luck: float
    writer: str
    version: int
    sampling: Mapping[str, Any]
    engine: str
    logps_of: Distribution = "model"
    instructions: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None

    @property
    def return_(self) -> float:
        """Sum of the rewards of all turns."""
        return float(sum(turn.reward for turn in self.turns))

    def segments(self) -> list[Segment]:
        """Return the turns in stretches whose tokens follow each other; one, unless a template wrote the past anew."""
        starts = [number for number, turn in enumerate(self.turns) if number == 0 or turn.starts_over]
        ends = pairwise([*starts, len(self.turns)])
        return [_segment(self.turns[start:end], start) for start, end in ends]

    def to_dict(self) -> dict[str, Any]:
        """Return the episode as JSON has it, its schema version first."""
        nested = {"turns": [dict(vars(turn)) for turn in self.turns]}
        return {"schema": SCHEMA, **vars(self), "return": self.return_, **nested}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "episode") -> "Episode":
        """Return the episode of a JSON object.

        Args:
            record: what `to_dict` gave, perhaps by an older version.
            where: origin for error messages.

        Raises:
            UserError: the object is of a newer schema, or is no episode.
        """
        check_schema(record, where, "episode", "tokenq play")
        try:
            return built(
                cls,
                {name: value for name, value in record.items() if name not in ("schema", "return")},
                turns=tuple(map(_turn, record["turns"])),
                observation=_told(record["observation"]),
                reason=_one_of(Reason, record["reason"]),
                logps_of=_one_of(Distribution, record["logps_of"]),
                tools=tuple(record["tools"]),
            )
        except KeyError as problem:
            raise UserError(f"{where} is no episode: it has no {problem}.", _AGAIN) from problem
        except (TypeError, ValueError, AttributeError) as problem:
            raise UserError(f"{where} is no episode: {problem}.", _AGAIN) from problem


_AGAIN = "Play again."


def _segment(turns: Sequence[Turn], first: int) -> Segment:
    ids, own, logps, places = list[int](), list[bool](), list[float](), list[int]()
    for number, turn in enumerate(turns, first):
        said = () if number == first else turn.observation_ids
        ids += [*said, *turn.action_ids]
        own += [False] * len(said) + [True] * len(turn.action_ids)
        logps += [0.0] * len(said) + list(turn.logps)
        places += [number] * (len(said) + len(turn.action_ids))
    rewards = tuple(turn.reward for turn in turns)
    columns = (tuple(ids), tuple(own), tuple(logps), tuple(places))
    return Segment(turns[0].observation_ids, *columns, first, rewards, turns[-1].finish)


def _turn(record: Mapping[str, Any]) -> Turn:
    tuples = ("observation_ids", "action_ids", "logps", "pieces")
    maybe = {name: None if record[name] is None else tuple(record[name]) for name in ("kept_mass", "implicit")}
    observation, finish = _told(record["observation"]), _one_of(Finish, record["finish"])
    if observation is None:
        raise TypeError("a turn has no observation")
    columns = {name: tuple(record[name]) for name in tuples} | maybe
    turn = built(Turn, record, observation=observation, finish=finish, **columns)
    if len(turn.logps) != len(turn.action_ids):
        raise ValueError(f"a turn has {len(turn.action_ids)} tokens and {len(turn.logps)} log-probs")
    return turn


def _told(observation: Any) -> Told | None:
    return tuple(observation) if isinstance(observation, list) else observation


def _one_of(hint: Any, value: Any) -> Any:
    if value not in get_args(hint):
        raise ValueError(f"{value!r} is none of {', '.join(get_args(hint))}")
    return value


def read_episodes(path: Path) -> Iterator[Episode]:
    """Yield the episodes of a `.jsonl` file.

    Raises:
        UserError: there is no such file, or a line of it is no episode or of a newer schema.
    """
    if not path.is_file():
        raise UserError(f"No file {path}.", "Episodes are written by tokenq play --output.")
    lines = json_lines(path, _AGAIN)
    yield from whole(path, (Episode.from_dict(record, where) for where, record in lines))
