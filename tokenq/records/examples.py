"""Examples in text and in tokens: frozen dataclasses of plain Python and numpy, the same on every machine.

This module imports neither torch nor transformers, so that reports and the command line can read records at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, repr=False)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        content: the text of the turn; may be empty beside tool calls.
        tool_calls: of an assistant turn, each {"type": "function", "function": {"name": …, "arguments": {…}}}, with its
            "id" where it has one. Arguments are a mapping, never JSON text. They count for equality, not for the hash.
        tool_call_id: of a tool turn, the call that it answers.
        name: of a tool turn, the function that it comes from.
        reasoning: what the assistant thought before `content`, where that is kept apart from it.
        segment: of an assistant turn, its name in the data, which may be that of a segment. No template sees it.
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str = ""
    segment: str | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """Return the turn with the fields that are set: names of stored files are made from it."""
        said = {
            name: value
            for name, value in vars(self).items()
            if name in ("role", "content") or (value and name != "segment")
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in said.items())})"

    def to_dict(self) -> dict[str, Any]:
        """Return the turn as OpenAI's messages and chat templates have it; what is not set is left out."""
        more: dict[str, Any] = {"reasoning_content": self.reasoning, "tool_calls": [*self.tool_calls]}
        more |= {"tool_call_id": self.tool_call_id, "name": self.name}
        return {"role": self.role, "content": self.content} | {key: value for key, value in more.items() if value}

    @classmethod
    def from_dict(cls, turn: Mapping[str, Any]) -> "Message":
        """Return the turn that `to_dict` has written.

        Raises:
            KeyError: it has no role or no content.
        """
        calls, reasoning = tuple(turn.get("tool_calls", ())), turn.get("reasoning_content", "")
        return cls(turn["role"], turn["content"], calls, turn.get("tool_call_id"), turn.get("name"), reasoning)


@dataclass(frozen=True, repr=False)
class ContextMessage(Message):
    """A turn of the assistant that stands in the context and is not learnt: data sets mark it with weight 0."""


@dataclass(frozen=True)
class Action(Message):
    """What a policy did in a turn of an episode.

    Attributes:
        token_ids: the tokens that were sampled, with the one that ended it; empty where nobody knows them.
    """

    token_ids: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the turn with its tokens."""
        return super().to_dict() | {"token_ids": list(self.token_ids)}

    @classmethod
    def from_dict(cls, turn: Mapping[str, Any]) -> "Action":
        """Return the turn that `to_dict` has written."""
        return replace(cls(**vars(Message.from_dict(turn))), token_ids=tuple(turn["token_ids"]))


Text = str | tuple[Message, ...]
"""A plain string, or the turns of a conversation."""


Role = Literal["plain", "chosen", "rejected", "calibration", "mismatched"]
"""The part that a response plays: chosen over a rejected one (or desirable, or the best of a ranking), read to
calibrate a pair, belonging to another prompt, or none of these."""


@dataclass(frozen=True)
class Response:
    """One response to a prompt, as the data set gave it.

    Attributes:
        content: a string, or the turns that follow the prompt (assistant turns are the policy's, others are context).
        role: the part that it plays, as what was asked of the data has it.
        label: desirable or not (KTO-style data), None where the data set does not say.
        score: a rating, higher is better, None where the data set has none.
        step_labels: for step-wise data, whether each step is correct; the steps are the `steps` strings.
        steps: for step-wise data, the strings whose concatenation is `content`.
        goes_on: whether more would follow (a step amid a solution), so that no EOS and no end of a turn belongs to it.
        ratings: ratings by attribute ("helpfulness", …); an attribute that was not rated is not there.
        scale: the least and the greatest that such a rating can be, None where the data set has no fixed scale.
        token_ids: the tokens that were sampled, where the data have them.
        token_numbers: numbers of its tokens by name (advantages, old_logps, …): one for each, or one for all.
    """

    content: Text
    label: bool | None = None
    score: float | None = None
    steps: tuple[str, ...] = ()
    step_labels: tuple[bool, ...] = ()
    goes_on: bool = False
    ratings: Mapping[str, float] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    role: Role = "plain"
    token_ids: tuple[int, ...] = ()
    token_numbers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """One prompt with its responses.

    Attributes:
        prompt: the prompt, a string or conversation turns.
        responses: the responses; a pair is (chosen, rejected), in this order, then what may be read beside it (a
            response to calibrate on). Ranked ones stand best first.
        is_pair: whether `responses` begins with a (chosen, rejected) pair.
        where: origin for error messages, such as "train.jsonl, row 17".
        context: keyword arguments for the chat template (for instance `tools`).
        margin: by how much the chosen response of a pair was rated above the rejected one, None where nothing says.
    """

    prompt: Text
    responses: tuple[Response, ...]
    is_pair: bool
    where: str
    context: dict[str, Any] = field(default_factory=dict)
    margin: float | None = None


@runtime_checkable
class Reply(Protocol):
    """A response as training sees it, whatever it is made of."""

    @property
    def role(self) -> Role:
        """The part that it plays."""
        ...

    @property
    def n_actions(self) -> int:
        """How many choices of the policy it holds: its own tokens, the denoising steps of a picture."""
        ...

    def content_bytes(self) -> bytes:
        """Return what tells it from others."""
        ...


@runtime_checkable
class Group(Protocol):
    """A prompt with its responses as training sees it: what is put into batches."""

    @property
    def responses(self) -> Sequence[Reply]:
        """The responses, in the order of the data."""
        ...

    @property
    def is_pair(self) -> bool:
        """Whether it begins with a (chosen, rejected) pair."""
        ...

    @property
    def where(self) -> str:
        """Origin for error messages."""
        ...

    @property
    def cost(self) -> int:
        """How much of a micro-batch it takes, in the unit of the run's budget."""
        ...

    def prompt_bytes(self) -> bytes:
        """Return what tells its prompt from others."""
        ...

    def only(self, places: Sequence[int]) -> "Group":
        """Return the group with some of its responses."""
        ...


@dataclass(frozen=True, eq=False)
class TokenResponse:
    """One response in token space.

    Attributes:
        ids: token ids [n], int32, without the prompt, ending in EOS where the response is complete.
        mask: [n], True = a token that the policy wrote (False: user, tool and template tokens inside the response).
        terminal: whether the response ends in EOS here (False when truncated, or when it goes on in the data).
        role: the part that it plays.
        token_columns: what a loss reads beside the tokens, by name: [n] a number for each (reference log-probs,
            weights, labels of steps).
        response_columns: what a loss reads beside the whole response, by name: a number, or a row of numbers.
        given: the response as the data has it.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    terminal: bool
    role: Role = "plain"
    token_columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    response_columns: Mapping[str, Any] = field(default_factory=dict)
    given: Response | None = None

    @property
    def n_actions(self) -> int:
        """Tokens that the policy wrote."""
        return int(self.mask.sum())

    def content_bytes(self) -> bytes:
        """Return what tells it from others: its token ids."""
        return self.ids.astype("<i4").tobytes()

    def cut(self, size: int) -> "TokenResponse":
        """Return the first tokens of a response, itself when it has no more."""
        if len(self.ids) <= size:
            return self
        columns = {name: column[:size] for name, column in self.token_columns.items()}
        return replace(self, ids=self.ids[:size], mask=self.mask[:size], terminal=False, token_columns=columns)

    def behind(self, size: int) -> "TokenResponse":
        """Return a response without its first tokens."""
        columns = {name: column[size:] for name, column in self.token_columns.items()}
        return replace(self, ids=self.ids[size:], mask=self.mask[size:], token_columns=columns)

    def with_token_column(self, name: str, numbers: NDArray[Any]) -> "TokenResponse":
        """Return the response with [n] a number for each token."""
        return replace(self, token_columns={**self.token_columns, name: numbers})

    def with_response_column(self, name: str, numbers: Any) -> "TokenResponse":
        """Return the response with a number, or a row of numbers, for the whole of it."""
        return replace(self, response_columns={**self.response_columns, name: numbers})


@dataclass(frozen=True, eq=False)
class TokenGroup:
    """One prompt with its responses in token space: the unit of batching and of the reference store.

    Attributes:
        prompt_ids: token ids of the prompt [m], int32, m >= 1, beginning with BOS where the tokenizer has one.
        responses: the responses, in the order of `Example.responses`.
        is_pair: whether `responses` begins with a (chosen, rejected) pair.
        where: origin for error messages.
        margin: by how much the chosen response was rated above the rejected one, None where nothing says.
    """

    prompt_ids: NDArray[np.int32]
    responses: tuple[TokenResponse, ...]
    is_pair: bool
    where: str
    margin: float | None = None

    def map(self, change: Callable[[TokenResponse], TokenResponse]) -> "TokenGroup":
        """Return the group with every response changed."""
        return replace(self, responses=tuple(map(change, self.responses)))

    @property
    def n_tokens(self) -> int:
        """Tokens of the prefix-shared row: the prompt once, and every response."""
        return len(self.prompt_ids) + sum(len(response.ids) for response in self.responses)

    @property
    def cost(self) -> int:
        """The same: micro-batches of text are bounded in tokens."""
        return self.n_tokens

    def prompt_bytes(self) -> bytes:
        """Return what tells its prompt from others: its token ids."""
        return self.prompt_ids.astype("<i4").tobytes()

    def only(self, places: Sequence[int]) -> "TokenGroup":
        """Return the group with some of its responses."""
        return replace(self, responses=tuple(self.responses[place] for place in places))
