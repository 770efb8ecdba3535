"""Signals that losses read beside the responses: mismatched responses, steps, weights of tokens, rewards.

Each function takes token groups and returns them with one thing more, a column or a response of another role; a row of
`SIGNALS` joins it to the input of a loss that has its name. Nothing here changes a token that is learnt from.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tokenq.core.token_weights import COLUMN as WEIGHTS
from tokenq.data.checks import (
    LABELS,
    MARGINS,
    OUTCOMES,
    REWARDS,
    STEP_LABELS,
    Difference,
    outcomes,
    refuse_equal,
    rewards,
)
from tokenq.data.layouts.ratings import TOKEN_NUMBERS
from tokenq.data.stretches.segments import Segments, with_segments
from tokenq.data.stretches.steps import with_step_labels, with_steps
from tokenq.data.tokenize import TokenizedData
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse


def with_mismatched(
    groups: Sequence[TokenGroup], max_length: int | None, others: Sequence[TokenGroup] = ()
) -> list[TokenGroup]:
    """Return every labelled group with the first response of the next group of another prompt, mismatched, at its end.

    KTO takes its reference point from such responses. They stand behind the group's own in the packed row, so that
    their prompt is computed once for both.

    Args:
        groups: the data; the next one of the last is the first.
        max_length: most tokens of a prompt with one response; longer mismatched responses are cut.
        others: where responses to other prompts are taken from when the data have one prompt: for a held-out part of
            one prompt, the training data.

    Raises:
        UserError: there is only one prompt in all of them.
    """
    one = all(np.array_equal(group.prompt_ids, groups[0].prompt_ids) for group in groups)
    following = _next_of_another_prompt([*groups, *others] if one else groups)[: len(groups)]
    found = []
    for group, other in zip(groups, following, strict=True):
        room = len(other.ids) if max_length is None else max(1, max_length - len(group.prompt_ids))
        mismatched = replace(other.cut(room), role="mismatched")
        if not mismatched.mask.any():  # cut before the policy's first token
            mismatched = replace(mismatched, mask=np.ones_like(mismatched.mask))
        found.append(replace(group, responses=(*group.responses, mismatched)))
    return found


def _next_of_another_prompt(groups: Sequence[TokenGroup]) -> list[TokenResponse]:
    following: list[TokenResponse] = []
    candidate = len(groups)
    doubled = [*groups, *groups]
    for place in range(len(groups) - 1, -1, -1):
        prompt = groups[place].prompt_ids
        candidate = place + 1
        while candidate < place + len(groups) and np.array_equal(doubled[candidate].prompt_ids, prompt):
            candidate += 1
        if candidate == place + len(groups):
            raise UserError(
                "All rows have one prompt, and KTO compares with responses to others.",
                "Give more prompts, or choose --loss-options mismatched=none.",
            )
        following.append(doubled[candidate].responses[0])
    return following[::-1]


def with_ratings(groups: Sequence[TokenGroup], names: Sequence[str]) -> list[TokenGroup]:
    """Return the groups with the ratings of every response as numbers, NaN where one is missing.

    A response that is rated on none of these attributes is left out, and a group without a response.

    Args:
        groups: tokenised from examples that were read for their ratings.
        names: the attributes, in the order of the model's outputs.
    """
    found: list[TokenGroup] = []
    for group in groups:
        ratings = [{} if one.given is None else one.given.ratings for one in group.responses]
        rated = tuple(
            response.with_response_column("ratings", np.array([given.get(name, np.nan) for name in names], np.float32))
            for response, given in zip(group.responses, ratings, strict=True)
            if given.keys() & set(names)
        )
        if rated:
            found.append(replace(group, responses=rated))
    return found


def rated_attributes(groups: Sequence[TokenGroup]) -> list[str]:
    """Return the attributes that responses are rated on, in the order in which they come up."""
    given = (response.given for group in groups for response in group.responses)
    return list(dict.fromkeys(name for one in given if one is not None for name in one.ratings))


class RewardScale(NamedTuple):
    """The normalisation of rewards: (r − mean)/sd.

    Attributes:
        mean: of all rewards of the training data.
        sd: their standard deviation, of the population.
    """

    mean: float
    sd: float


def reward_scale(groups: Sequence[TokenGroup]) -> RewardScale:
    """Return mean and standard deviation of the rewards of all responses.

    Raises:
        UserError: all rewards are the same, so that there is nothing to learn from them.
    """
    refuse_equal(groups, REWARDS)
    found = [reward for group in groups for reward in rewards(group)]
    return RewardScale(float(np.mean(found)), float(np.std(found)))


def with_rewards(groups: Sequence[TokenGroup], scale: RewardScale) -> list[TokenGroup]:
    """Return the groups with normalised rewards.

    Args:
        groups: the data, every response with its reward as the data has it.
        scale: of the training data, also for data that is held out.
    """
    return [
        replace(
            group,
            responses=tuple(
                response.with_response_column("rewards", (reward - scale.mean) / scale.sd)
                for response, reward in zip(group.responses, rewards(group), strict=True)
            ),
        )
        for group in groups
    ]


def with_outcomes(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Return the groups with the outcome of every response, as the data has it."""
    return [
        replace(
            group,
            responses=tuple(
                response.with_response_column("outcomes", value)
                for response, value in zip(group.responses, outcomes(group), strict=True)
            ),
        )
        for group in groups
    ]


def with_margins(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Return pairs with the margin of each beside both of its responses."""

    def beside(group: TokenGroup) -> TokenGroup:
        margin = group.margin
        return group if margin is None else group.map(lambda one: one.with_response_column("margin", margin))

    return [beside(group) for group in groups]


def with_token_numbers(groups: Sequence[TokenGroup], name: str) -> list[TokenGroup]:
    """Return the groups with a token column of the data, such as advantages.

    A response that was cut to fit has the first of its numbers. One whose text has other tokens than those that were
    sampled is left out: it has no numbers.

    Args:
        groups: tokenised from examples that were read for the numbers of their tokens.
        name: of the column.

    Raises:
        UserError: a response has none, or not one for each token.
    """
    found = []
    for group in groups:
        kept = tuple(one for one in group.responses if _as_sampled(one))
        if kept:
            found.append(replace(group, responses=tuple(_numbered(group.where, one, name) for one in kept)))
    return found


def _as_sampled(response: TokenResponse) -> bool:
    ids = () if response.given is None else response.given.token_ids
    return not ids or tuple(response.ids.tolist()) == ids[: len(response.ids)]


def _numbered(where: str, response: TokenResponse, name: str) -> TokenResponse:
    numbers = () if response.given is None else response.given.token_numbers.get(name, ())
    size = len(response.ids)
    if not numbers:
        raise UserError(f"{where}: a response has no {name}.", f"Add a column {name}: a number for each token.")
    if 1 < len(numbers) < size or (len(numbers) > size and response.terminal):
        raise UserError(
            f"{where}: a response has {size} tokens and {len(numbers)} {name}.",
            "Give one for each token, EOS included, or one for all; tokens are those of the policy's tokenizer.",
        )
    return response.with_token_column(name, np.resize(np.array(numbers[:size], np.float32), size))


class SignalOptions(NamedTuple):
    """The inputs of signals besides the data itself.

    Attributes:
        trained: the training data, also where a held-out part is meant.
        max_length: most tokens of a prompt with one response.
        attributes: the outputs of a reward model.
        segments: parts of responses with a strength each.
        weights: (data) → the groups with weights of their tokens.
    """

    trained: Sequence[TokenGroup] = ()
    max_length: int | None = None
    attributes: Sequence[str] = ()
    segments: Segments = Segments()
    weights: Callable[[TokenizedData], Sequence[TokenGroup]] = lambda data: data.groups


class Signal(NamedTuple):
    """An input of a loss that comes from the data.

    Attributes:
        add: (data, options) → the groups with it.
        needs_texts: whether it is found in the texts.
        needs_all: whether it is found from all of the data, and not from each group by itself.
        differences: what must not be the same in all of the data.
        left_out: options → why responses have none, and what to do where none is left.
    """

    add: Callable[[TokenizedData, SignalOptions], Sequence[TokenGroup]]
    needs_texts: bool = False
    needs_all: bool = False
    differences: tuple[Difference, ...] = ()
    left_out: Callable[[SignalOptions], tuple[str, str]] = lambda options: ("that have none", "Look at the data.")


def _token_numbers(name: str) -> Signal:
    return Signal(
        lambda data, options: with_token_numbers(data.groups, name),
        left_out=lambda options: (
            "whose text has other tokens than those that were sampled",
            "Train with the tokenizer of the policy that wrote them.",
        ),
    )


SIGNALS: dict[str, Signal] = {
    **{name: _token_numbers(name) for name in TOKEN_NUMBERS},
    "labels": Signal(lambda data, options: data.groups, differences=(LABELS,)),
    "mismatched": Signal(
        lambda data, options: with_mismatched(data.groups, options.max_length, options.trained), needs_all=True
    ),
    "steps": Signal(lambda data, options: with_steps(data), needs_texts=True),
    "rewards": Signal(
        lambda data, options: with_rewards(data.groups, reward_scale(options.trained)),
        needs_all=True,
        differences=(REWARDS,),
    ),
    "outcomes": Signal(lambda data, options: with_outcomes(data.groups), differences=(OUTCOMES,)),
    "margin": Signal(lambda data, options: with_margins(data.groups), differences=(MARGINS,)),
    "ratings": Signal(
        lambda data, options: with_ratings(data.groups, options.attributes),
        left_out=lambda options: (
            f"that are rated on none of {', '.join(options.attributes)}",
            "Name what these data are rated on.",
        ),
    ),
    WEIGHTS: Signal(lambda data, options: options.weights(data), needs_texts=True, needs_all=True),
    "segments": Signal(lambda data, options: with_segments(data.groups, options.segments)),
    "step_labels": Signal(
        lambda data, options: with_step_labels(data),
        needs_texts=True,
        differences=(STEP_LABELS,),
        left_out=lambda options: ("that were cut before the end of their first step", "Raise --max-length."),
    ),
}
"""Every signal by the name of the input of a loss."""
