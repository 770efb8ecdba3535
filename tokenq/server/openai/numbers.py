"""Tokens and what models say of them as JSON has it: log-probs of completions and of chats, and rewards of the pair."""

import math
from collections.abc import Sequence
from typing import Any

from tokenq.server.engine.request import PromptLogps, Token
from tokenq.server.openai.choice import Placed
from tokenq.server.vocabulary import Vocabulary

LEAST = -9999.0
"""What stands for log 0, which JSON has no number for; it is OpenAI's."""


def number(logp: float) -> float:
    """Return a log-prob that JSON can hold."""
    return logp if math.isfinite(logp) else LEAST


def text_logprobs(tokens: Sequence[Placed], top: int, vocabulary: Vocabulary, shift: int = 0) -> dict[str, Any]:
    """Return log-probs as completions have them.

    Args:
        tokens: those that are shown.
        top: alternatives at each; the token itself is always among them.
        vocabulary: of the policy.
        shift: characters before the response.
    """
    shown = [vocabulary.shown(one.token.id).text for one in tokens]
    tops = [
        _named([*one.token.top[:top], (one.token.id, one.token.logp)], vocabulary) if top else None for one in tokens
    ]
    return {
        "tokens": shown,
        "token_logprobs": [number(one.token.logp) for one in tokens],
        "top_logprobs": tops if top else None,
        "text_offset": [shift + one.offset for one in tokens],
    }


def prompt_logprobs(
    ids: Sequence[int], read: PromptLogps, offsets: Sequence[int], top: int, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return log-probs of a prompt as completions have them; its first token has none."""
    tops: list[dict[str, float] | None] = []
    for token, logp, some in zip(ids, read.logps, read.tops, strict=True):
        tops.append(None if logp is None else _named([*some[:top], (token, logp)], vocabulary))
    return {
        "tokens": [vocabulary.shown(token).text for token in ids],
        "token_logprobs": [None if logp is None else number(logp) for logp in read.logps],
        "top_logprobs": tops if top else None,
        "text_offset": list(offsets),
    }


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the log-probs of two stretches, one behind the other."""
    lists = {name: [*first[name], *second[name]] for name in ("tokens", "token_logprobs", "text_offset")}
    some = [one["top_logprobs"] for one in (first, second)]
    tops = None if None in some else [*some[0], *some[1]]
    return {
        "tokens": lists["tokens"],
        "token_logprobs": lists["token_logprobs"],
        "top_logprobs": tops,
        "text_offset": lists["text_offset"],
    }


def _named(some: Sequence[tuple[int, float]], vocabulary: Vocabulary) -> dict[str, float]:
    """Return log-probs by the text of the token; of two with one text the likelier is told."""
    found: dict[str, float] = {}
    for token, logp in some:
        text = vocabulary.shown(token).text
        found[text] = max(number(logp), found.get(text, LEAST))
    return found


def chat_logprobs(tokens: Sequence[Placed], top: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return log-probs as chats have them."""
    content = []
    for placed in tokens:
        one = placed.token
        others = [_entry(token, logp, vocabulary) for token, logp in one.top[:top]]
        content.append({**_entry(one.id, one.logp, vocabulary), "top_logprobs": others})
    return {"content": content, "refusal": None}


def _entry(token: int, logp: float, vocabulary: Vocabulary) -> dict[str, Any]:
    shown = vocabulary.shown(token)
    return {"token": shown.text, "logprob": number(logp), "bytes": list(shown.bytes)}


class RewardSum:
    """Rewards of one response, chunk by chunk.

    Args:
        beta: KL temperature.
        alternatives: how many at each token, under each model.
        vocabulary: of the policy.
    """

    def __init__(self, beta: float, alternatives: int, vocabulary: Vocabulary) -> None:
        self._beta, self._count, self._vocabulary = beta, alternatives, vocabulary
        self._sum = 0.0

    def told(self, tokens: Sequence[Placed]) -> dict[str, Any]:
        """Return what the pair says of further tokens, and the sum so far."""
        beta, read = self._beta, [one.token for one in tokens]
        ref_logps = [0.0 if one.ref_logp is None else one.ref_logp for one in read]
        rewards = [beta * (number(one.logp) - number(ref)) for one, ref in zip(read, ref_logps, strict=True)]
        for reward in rewards:
            self._sum += reward
        return {
            "beta": beta,
            "implicit_rewards": rewards,
            "ref_logprobs": [number(one) for one in ref_logps],
            "advantages": [beta * number(one.logp) for one in read],
            "sequence_reward": self._sum,
            "alternatives": [self._alternatives(one) for one in read],
        }

    def _alternatives(self, token: Token) -> list[dict[str, Any]]:
        own, other = dict((*token.top, *token.others)), dict(token.ref_top)
        if not self._count:
            return []
        shown = dict.fromkeys([*list(own)[: self._count], *list(other)[: self._count]])
        return [self._alternative(one, own.get(one), other.get(one)) for one in shown]

    def _alternative(self, token: int, logp: float | None, ref_logp: float | None) -> dict[str, Any]:
        both = logp is not None and ref_logp is not None
        return {
            "id": token,
            "token": self._vocabulary.shown(token).text,
            "logprob": None if logp is None else number(logp),
            "ref_logprob": None if ref_logp is None else number(ref_logp),
            "implicit_reward": self._beta * (number(logp) - number(ref_logp)) if both else None,  # type: ignore[arg-type]  # both are numbers
        }
