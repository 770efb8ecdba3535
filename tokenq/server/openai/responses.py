"""The shapes of what completions and chats answer, as the document of the API declares them."""

from typing import Any, Literal

from pydantic import BaseModel

Finish = Literal["stop", "length", "tool_calls"]


class Usage(BaseModel):
    """How many tokens there were; those that a stop text hides are counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Alternative(BaseModel):
    """A token that could have stood here; a number is null where it was not read."""

    id: int
    token: str
    logprob: float | None
    ref_logprob: float | None
    implicit_reward: float | None


class Rewards(BaseModel):
    """What the pair of models says of the tokens that are shown, in nats.

    A chunk of a stream has its own tokens, and the sum so far.
    """

    beta: float
    implicit_rewards: list[float]
    """β (log π − log π_ref) of each token."""
    ref_logprobs: list[float]
    """log π_ref of each."""
    advantages: list[float]
    """β log π of each."""
    sequence_reward: float
    """Sum of the implicit rewards."""
    alternatives: list[list[Alternative]]
    """What could have stood at each: the likeliest under either model."""
    prompt_ref_logprobs: list[float | None] | None = None
    """log π_ref of the prompt's tokens, with echo."""


class Searched(BaseModel):
    """What a search has found besides its responses."""

    method: str
    objective: str
    cost: dict[str, Any]
    stopped: str | None
    tree: dict[str, Any] | None = None


class Found(BaseModel):
    """What a search says of a response."""

    score: float
    """What the method ranks it by; larger is better."""
    answer: str | None = None
    beta: float | None = None
    implicit_rewards: list[float] | None = None
    ref_logprobs: list[float] | None = None
    advantages: list[float] | None = None
    sequence_reward: float | None = None
    alternatives: list[list[Alternative]] | None = None


class TextLogprobs(BaseModel):
    """Log-probs of the tokens of a completion; null for the first of a prompt, which nothing predicts."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    """One response of a completion, or what has come of it."""

    index: int
    text: str
    finish_reason: Finish | None
    logprobs: TextLogprobs | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    tokenq: Rewards | Found | None = None


class Completion(BaseModel):
    """Responses to the prompts, those to the first one first."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
    weight_version: str | None = None
    tokenq: Searched | list[Searched] | None = None


class TopLogprob(BaseModel):
    """A token that could have stood here."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(BaseModel):
    """A token of a response; its bytes are its own, and joined they are the text."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probs of the tokens of a turn."""

    content: list[TokenLogprob] | None
    refusal: None = None


class FunctionCall(BaseModel):
    """A call of a function, its arguments as JSON text."""

    name: str
    arguments: str


class Call(BaseModel):
    """A call that was read in a response."""

    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class Answer(BaseModel):
    """A turn of the policy."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[Call] | None = None


class ChatChoice(BaseModel):
    """One response of a chat."""

    index: int
    message: Answer
    finish_reason: Finish
    logprobs: ChatLogprobs | None
    token_ids: list[int] | None = None
    tokenq: Rewards | Found | None = None


class Chat(BaseModel):
    """Responses to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None
    weight_version: str | None = None
    tokenq: Searched | None = None
