"""From a request to what the engine is asked for, once everything in it can be meant."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenq.errors import UserError
from tokenq.search.settings import Sampling
from tokenq.server.engine.request import Generation
from tokenq.server.errors import ApiError, of_user
from tokenq.server.openai.prompts import Asked, check_ids
from tokenq.server.openai.requests import SEARCHED, PairOptions, StreamOptions, Written
from tokenq.server.served import Facts, Model
from tokenq.server.settings import Settings


def options_of(request: Written) -> PairOptions:
    """Return what a request asks of the pair."""
    return request.tokenq or PairOptions()


def search_settings(options: PairOptions) -> dict[str, Any]:
    """Return the settings of a search that a request gives.

    Raises:
        ApiError: there are some, and no method.
    """
    given = {name: getattr(options, name) for name in SEARCHED if name in options.model_fields_set}
    given = {name: value for name, value in given.items() if value is not None}
    if options.method is None:
        for name in (*given, *(name for name in ("proxy", "tree") if getattr(options, name))):
            said = f"tokenq.{name} is a setting of a search, and tokenq.method is missing."
            raise ApiError(said, param=f"tokenq.{name}", code="invalid_value")
    return given


def check_written(request: Written, settings: Settings, model: Model) -> None:
    """Refuse what cannot be meant, whatever is written.

    Raises:
        ApiError: names the field.
    """
    facts, most = model.facts, min(settings.max_choices, model.engine.max_running)
    if request.n > most:
        raise ApiError(f"n: {request.n} responses, and at most {most} are written.", param="n", code="invalid_value")
    if request.stream_options is not None and not request.stream:
        raise ApiError("stream_options belongs to a stream: set stream.", param="stream_options")
    if any(not stop for stop in stops_of(request)):
        raise ApiError("stop: an empty text stands everywhere.", param="stop", code="invalid_value")
    check_ids(request.stop_token_ids or (), facts, "stop_token_ids")
    options = options_of(request)
    if options.rewards and facts.reader.other_tokenizer is not None:
        said = "tokenq.rewards: the reference reads other tokens, so that none has a reward of its own. Ask /trace."
        raise ApiError(said, param="tokenq.rewards", code="unsupported_parameter")
    if options.rewards and facts.reader.parts.segments:
        said = (
            "tokenq.rewards: parts of a response have strengths of their own, which are known at its end. Ask /trace."
        )
        raise ApiError(said, param="tokenq.rewards", code="unsupported_parameter")
    try:
        Sampling(request.temperature, max(0, request.top_k), request.top_p, request.min_p)
    except UserError as problem:
        raise of_user(problem, "temperature") from None


def stops_of(request: Written) -> list[str]:
    """Return the texts before which a response is cut."""
    return [request.stop] if isinstance(request.stop, str) else request.stop or []


def include_usage(request: Written) -> bool:
    """Return whether a stream ends with the number of tokens."""
    return (request.stream_options or StreamOptions()).include_usage


def bias_of(given: Mapping[str, float] | None, facts: Facts) -> dict[int, float]:
    """Return a logit bias by token id.

    Raises:
        ApiError: a name that is no token id.
    """
    found = {}
    for name, value in (given or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < facts.size):
            said = f"logit_bias: {name[:40]!r} is no token id; they go from 0 to {facts.size - 1}."
            raise ApiError(said, param="logit_bias", code="invalid_value")
        found[int(name)] = float(value)
    return found


def top_of(asked: int | None, param: str, settings: Settings) -> int:
    """Return how many alternatives are asked for at a token.

    Raises:
        ApiError: too many.
    """
    if (asked or 0) > settings.max_logprobs:
        said = f"{param}: {asked} alternatives, and at most {settings.max_logprobs} are given."
        raise ApiError(said, param=param, code="invalid_value")
    return asked or 0


def length_of(
    asked: int | None, default: int, prompt: Asked, facts: Facts, settings: Settings, params: tuple[str, str]
) -> int:
    """Return how many tokens a response to a prompt may have.

    Args:
        asked: for.
        default: where nobody asks; less where the context has no room for it.
        prompt: before it.
        facts: of the model.
        settings: how much may be asked for.
        params: the fields of the number, and of the prompt.

    Raises:
        ApiError: the prompt, or the response behind it, would be longer than the context.
    """
    room, most = facts.room(len(prompt.ids), params[1]), settings.max_prompt_tokens
    if most is not None and len(prompt.ids) > most:
        said = f"The prompt has {len(prompt.ids)} tokens, and this server reads {most} at most."
        raise ApiError(said, param=params[1], code="context_length_exceeded")
    if asked is None:
        asked = default if room is None else min(default, room)
        if asked == 0:
            said = (
                f"A prompt of {len(prompt.ids)} tokens leaves no room in the model's context of {facts.context} tokens."
            )
            raise ApiError(said, param=params[1], code="context_length_exceeded")
        return asked
    if asked > settings.max_new_tokens:
        said = f"{params[0]}: {asked} tokens, and this server writes {settings.max_new_tokens} at most."
        raise ApiError(said, param=params[0], code="invalid_value")
    if room is not None and asked > room:
        said = (
            f"The prompt has {len(prompt.ids)} tokens and the response may have {asked}, together more than the "
            f"model's context of {facts.context} tokens. Lower {params[0]} to {room}."
        )
        raise ApiError(said, param=params[0], code="context_length_exceeded")
    return asked


def generation(
    request: Written, prompt: Asked, length: int, top: int, facts: Facts, prompt_logps: bool = False
) -> Generation:
    """Return what the engine is asked for behind a prompt.

    Args:
        request: says how tokens are drawn.
        prompt: before them.
        length: most tokens.
        top: alternatives at each.
        facts: of the model.
        prompt_logps: whether the prompt is read as well.
    """
    options = options_of(request)
    given = frozenset(request.stop_token_ids or ())
    return Generation(
        prompt=prompt.ids,
        n=request.n,
        seed=request.seed,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(0, request.top_k),
        min_p=request.min_p,
        logit_bias=bias_of(request.logit_bias, facts),
        max_new_tokens=length,
        eos=given if request.ignore_eos else given | facts.ends,
        top_logprobs=max(top, options.alternatives if options.rewards else 0),
        rewards=options.rewards,
        prompt_logps=prompt_logps,
    )


def usage_of(prompts: Sequence[Asked], written: int) -> dict[str, int]:
    """Return how many tokens there were."""
    read = sum(len(one.ids) for one in prompts)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
