"""/tokenize and /detokenize: texts and conversations as the tokens that the policy reads, and back."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from tokenq.data.encoding import whole_text
from tokenq.data.prompts import Prompt
from tokenq.server.asked import OfModel
from tokenq.server.errors import ERRORS, ApiError
from tokenq.server.openai.prompts import check_ids, encoded, talk_prompt
from tokenq.server.openai.requests import Talk, TokenId, Tool, Turn
from tokenq.server.served import Serving

router = APIRouter(tags=["tokens"])


class TokenizeRequest(OfModel):
    """A text or a conversation."""

    prompt: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)] | None = None
    """Turns, which the chat template writes, with the header of the assistant's turn behind them."""
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, object] | None = None
    add_special_tokens: bool = True
    """Whether what the tokenizer puts before every text (BOS) comes with it; turns are as a template writes them."""
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    """Whether the text of each token comes back."""


class Tokenized(BaseModel):
    """The tokens of a text."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(OfModel):
    """Tokens."""

    tokens: list[TokenId]


class Detokenized(BaseModel):
    """The text of tokens, special ones by name."""

    prompt: str


@router.post("/tokenize", responses=ERRORS)
async def tokenize(request: TokenizeRequest, served: Serving) -> Tokenized:
    """Return the tokens of a text, or of a conversation."""
    model = await served.model(request.model)
    facts = model.facts
    if (request.prompt is None) == (request.messages is None):
        raise ApiError("Give either prompt or messages.", param="prompt", code="invalid_value")
    ids: tuple[int, ...]
    if request.messages is not None:
        if not request.add_generation_prompt:
            said = "add_generation_prompt: the header of the assistant's turn ends every prompt."
            raise ApiError(said, param="add_generation_prompt", code="unsupported_parameter")
        kwargs = request.chat_template_kwargs
        talk = Talk(messages=request.messages, tools=request.tools, chat_template_kwargs=kwargs)
        ids = (await talk_prompt(talk, facts)).ids
    elif not request.prompt:
        ids = ()
    elif request.add_special_tokens:
        (ids,) = await encoded([Prompt("1", request.prompt, "prompt")], facts, "prompt")
    else:
        bare = await run_in_threadpool(facts.tokenizer, [request.prompt], add_special_tokens=False)
        ids = tuple(bare["input_ids"][0])
    texts = [facts.vocabulary.shown(one).text for one in ids] if request.return_token_strs else None
    return Tokenized(count=len(ids), max_model_len=facts.context, tokens=list(ids), token_strs=texts)


@router.post("/detokenize", responses=ERRORS)
async def detokenize(request: DetokenizeRequest, served: Serving) -> Detokenized:
    """Return the text of tokens."""
    model = await served.model(request.model)
    check_ids(request.tokens, model.facts, "tokens")
    return Detokenized(prompt=whole_text(model.facts.tokenizer, request.tokens))
