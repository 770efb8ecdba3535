"""Responses to a prompt, read together: the prompt once for all of them, and what each is worth."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from tokenq.jobs.reader import Reader
from tokenq.records.examples import Example, Message, Response
from tokenq.records.traces import TokenTrace, Totals
from tokenq.server.scoring.judge import no_reward_model

Ranking = Literal["reward", "mean_reward", "likelihood", "mean_likelihood", "value"]
"""What a response is ranked by: the implicit reward, log π, each also by token, or what a reward model says."""


class Sums(BaseModel):
    """Sums over the tokens of a response, in nats; `reward` is a reward model's."""

    implicit_reward: float | None
    logp: float | None
    ref_logp: float | None
    tokens: int
    reward: float | None


def sums_of(totals: Totals) -> dict[str, Any]:
    """Return the sums of a response as an answer has them."""
    return {name: vars(totals)[name] for name in Sums.model_fields}


def read_together(reader: Reader, prompt: str, responses: Sequence[str]) -> list[TokenTrace]:
    """Return the totals of responses to one prompt, in one packed group.

    Args:
        reader: the models.
        prompt: text; for a tokenizer with a chat template the user's turn.
        responses: texts; with a chat template the assistant's turns.

    Raises:
        UserError: one of them cannot be read.
    """
    chat = reader.tokenizer.chat_template is not None
    replies = tuple(Response((Message("assistant", one),) if chat else one) for one in responses)
    example = Example((Message("user", prompt),) if chat else prompt, replies, False, "the given text")
    rows, _ = reader.rows([example])
    return next(iter(reader.totals(rows)))


def worth(totals: Totals, ranking: Ranking) -> float:
    """Return what a response is ranked by.

    Raises:
        UserError: the models that are served do not say that.
    """
    return WORTH[ranking](totals)


def _value(totals: Totals) -> float:
    if totals.reward is None:
        raise no_reward_model()
    return totals.reward


WORTH: Mapping[Ranking, Callable[[Totals], float]] = {
    "reward": lambda totals: totals.given("implicit_reward"),
    "mean_reward": lambda totals: totals.given("implicit_reward") / max(1, totals.tokens),
    "likelihood": lambda totals: totals.given("logp"),
    "mean_likelihood": lambda totals: totals.given("logp") / max(1, totals.tokens),
    "value": _value,
}
"""What responses may be ranked by."""
