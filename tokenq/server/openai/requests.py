"""What completions and chats may be asked for: OpenAI's fields, those of vLLM that the engine has, and tokenq's own.

A field that has no effect here is refused by name, unless it has the one value that means what is done anyway.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, create_model

from tokenq.search.config import SearchConfig
from tokenq.search.settings import PARTS, Sampling, names_of
from tokenq.server.asked import Asked, OfModel

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
Stops = str | Annotated[list[str], Field(max_length=16)]

_OWN = ("n", "ranking", "objective", "budget", "answer")
"""Settings of a search that belong to no method's part."""

_HINTS = get_type_hints(SearchConfig)

SEARCHED: Mapping[str, Any] = {
    name: _HINTS[name]
    for name in dict.fromkeys((*(n for kind in PARTS if kind is not Sampling for n in names_of(kind)), *_OWN))
}
"""Settings of a search by name, with their types, as `tokenq search` has them; how tokens are drawn stands beside."""


class PairOptions(Asked):
    """What the pair of models is asked for beside a text."""

    rewards: bool = False
    """Whether the reference reads along: implicit rewards, advantages and alternatives of every token."""
    alternatives: Annotated[int, Field(ge=0, le=20)] = 5
    """Alternatives at every token, under each model; with rewards."""
    method: str | None = None
    """Decode by a search: greedy, sample, best_of_n, majority, weighted_vote, beam, …; settings are its own."""
    proxy: str | None = None
    """Small pairs that steer the policy in a search, by the name that they were given when the server was started."""
    tree: bool = False
    """Whether a search gives back the tree of what it has looked at."""


_FIELDS: dict[str, Any] = {name: (kind | None, None) for name, kind in SEARCHED.items()}

Tokenq: Any = create_model("Tokenq", __base__=PairOptions, __doc__=PairOptions.__doc__, **_FIELDS)
"""The object "tokenq" of a request."""


class StreamOptions(Asked):
    """What a stream holds beside its text."""

    include_usage: bool = False
    """Whether the last chunk says how many tokens there were."""


class Written(OfModel):
    """What a completion and a chat have in common."""

    n: Count = 1
    """Responses to each prompt; they share it."""
    stream: bool = False
    """Whether the response comes as it is written: server-sent events."""
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    """Texts before which a response is cut."""
    stop_token_ids: list[TokenId] | None = None
    """Further tokens that end a response; they come back as its last token."""
    ignore_eos: bool = False
    """Whether a response goes on behind its end, up to its length."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Decides what is drawn, whatever is written beside it."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Logits are divided by it; 0 takes the likeliest token. Log-probs are always those of the model itself."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    """Only the k likeliest tokens; 0 or −1 for all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """By token id, what is added to its logit before anything is drawn."""
    return_token_ids: bool = False
    """Whether token ids come back, of the prompt and of the response."""
    user: str | None = None
    """Who asks; requests of several get their turns alike."""
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    repetition_penalty: One | None = None
    tokenq: Annotated[Tokenq | None, Field()] = None
    """What the pair of models is asked for: rewards, or a search."""


class CompletionRequest(Written):
    """A text, or tokens, that the policy continues."""

    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    """A text, several, token ids, or several lists of them."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of a response, 16 when left out; 0 with echo, which reads the prompt and writes nothing."""
    logprobs: Annotated[int, Field(ge=0)] | None = None
    """Log-probs of the tokens, and of so many of the likeliest."""
    echo: bool = False
    """Whether the prompt comes back before the response, with its log-probs where these are asked for."""
    best_of: Count | None = None
    suffix: None = None


class Function(Asked):
    """A function that the policy may call."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Asked):
    """A tool that the policy may call."""

    type: Literal["function"]
    function: Function


class CalledFunction(Asked):
    """A call of a function, its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Asked):
    """A call in a turn of the assistant."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Part(Asked):
    """A part of a turn that is text."""

    type: Literal["text"]
    text: str


class Turn(Asked):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class TextFormat(Asked):
    """The form of a response."""

    type: Literal["text"]


class Talk(OfModel):
    """A conversation, and what its chat template is told."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    tools: list[Tool] | None = None
    """Functions that the policy may call, as its chat template writes them."""
    chat_template_kwargs: dict[str, Any] | None = None
    """What else the chat template is told."""


class ChatRequest(Written, Talk):
    """A conversation that the policy continues with a turn of its own."""

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    """Most tokens of a response; what the context leaves when left out."""
    logprobs: bool = False
    """Whether log-probs of the tokens come back."""
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    """Log-probs of so many of the likeliest tokens; with logprobs."""
    tool_choice: Literal["none", "auto"] | None = None
    """Whether calls are looked for in what is written; auto where there are tools."""
    parallel_tool_calls: Literal[True] | None = None
    response_format: TextFormat | None = None
