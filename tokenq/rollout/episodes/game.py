"""What an episode is made of: how it begins, what is played, by whom and how, and what that costs."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tokenq.data.dialogue import Dialogue
from tokenq.data.encoding import pieces_of
from tokenq.envs.environment import Environment
from tokenq.records.episodes import Turn
from tokenq.rollout.writer import Sample, Writer
from tokenq.search.settings import Sampling

Worth = Callable[[Sequence[tuple[tuple[int, ...], tuple[int, ...]]]], list[float]]
"""(what was read before it, tokens of an action) of each → Σ β log π/π_ref over its tokens."""


class Start(NamedTuple):
    """How an episode begins.

    Attributes:
        seed: of the environment.
        number: which of the episodes with this seed it is.
        past: turns of another episode with this seed, which are taken again before the first action is written.
    """

    seed: int
    number: int = 0
    past: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Game:
    """What is played.

    Attributes:
        name: of the environment.
        options: what it is made with.
        make: makes one.
        instructions: the system text before the first observation.
        tools: schemas of the tools that the policy is shown.
    """

    name: str
    options: Mapping[str, Any]
    make: Callable[[], Environment]
    instructions: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()


def action_pieces(tokenizer: Any, ends: Sequence[int]) -> Callable[[Sequence[int], Sequence[int]], list[str]]:
    """Return the function from (tokens before, tokens of an action) to what each of these adds to the action's text.

    Special tokens that say something (where a thought or the call of a tool begins and ends) stand there by name. Those
    that begin, end and fill texts do not.

    Args:
        tokenizer: a tokenizer of `transformers`.
        ends: ids that end an action.
    """
    silent = {*ends, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    known = tokenizer.added_tokens_decoder.items()
    named = {token: str(one.content) for token, one in known if one.special and token not in silent}

    def pieces(before: Sequence[int], action: Sequence[int]) -> list[str]:
        found = pieces_of(tokenizer, before, action)
        return [piece or named.get(token, "") for piece, token in zip(found, action, strict=True)]

    return pieces


@dataclass(frozen=True)
class Player:
    """Who plays.

    Attributes:
        writer: writes actions.
        dialogue: how what is said becomes tokens.
        pieces: (tokens before, tokens) → what each of them adds to the text.
        name: "policy" or "reference".
        version: updates that the weights had seen, where the writer does not say.
        worth: reads actions with the policy and its reference, for searches; None without a reference.
    """

    writer: Writer
    dialogue: Dialogue
    pieces: Callable[[Sequence[int], Sequence[int]], Sequence[str]]
    name: str = "policy"
    version: int = 0
    worth: Worth | None = None


class Planned(NamedTuple):
    """An action of a plan, and what it led to in a copy of the environment.

    Attributes:
        sample: the action.
        ids: the conversation behind it; None where the episode was over.
        total: rewards of the episode up to it.
    """

    sample: Sample
    ids: tuple[int, ...] | None
    total: float


@dataclass(frozen=True)
class ActionSearch:
    """How actions are searched for.

    Attributes:
        method: "best_of_n" or "tree".
        value: what a line of actions is worth: "implicit", "return" or "exact".
        candidates: actions that are proposed in a state.
        simulations: of a tree, in every turn.
    """

    method: str
    value: str
    candidates: int = 4
    simulations: int = 16


@dataclass(frozen=True)
class Rules:
    """How it is played.

    Attributes:
        sampling: temperature and filters.
        seed: of the sampling.
        max_turns: most actions of an episode.
        max_new_tokens: most tokens of an action.
        context: most tokens of an episode that the models read; None for no limit.
        when_full: "end" ends an episode where the context is full, "cut" leaves out its oldest turns.
        step_timeout: seconds that an environment may take for an answer; None for no limit.
        side_by_side: episodes that are played in lockstep.
        search: how actions are searched for; None takes what is written.
    """

    sampling: Sampling
    seed: int
    max_turns: int
    max_new_tokens: int
    context: int | None = None
    when_full: Literal["end", "cut"] = "end"
    step_timeout: float | None = None
    side_by_side: int = 32
    search: ActionSearch | None = None


@dataclass
class Spent:
    """What playing has cost this process.

    Attributes:
        writing: seconds of the writer.
        acting: seconds of the environments.
        seconds: in all.
        written: tokens of actions.
        read: tokens of prompts, as often as they were given to the writer.
    """

    writing: float = 0.0
    acting: float = 0.0
    seconds: float = 0.0
    written: int = 0
    read: int = 0

    @contextlib.contextmanager
    def on(self, what: Literal["writing", "acting", "seconds"]) -> Iterator[None]:
        """Add the seconds of the block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, what, getattr(self, what) + time.perf_counter() - begin)
