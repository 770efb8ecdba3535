"""What a loss reads beside the responses: those to other prompts, steps, a contrast of two models, normal rewards.

Each function takes token groups and returns them with one thing more. Nothing here changes a token that is learnt from.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.data.checks import refuse_equal, rewards
from tokenq.data.steps import step_stretches
from tokenq.data.tokenize import ResponseText, TokenizedData
from tokenq.errors import UserError
from tokenq.records import TokenGroup, TokenResponse
from tokenq.traces import TokenTrace, read_traces


def with_mismatched(
    groups: Sequence[TokenGroup], max_length: int | None, others: Sequence[TokenGroup] = ()
) -> list[TokenGroup]:
    """Return every labelled group with the first response of the next group of another prompt, unlabelled, at its end.

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
        mismatched = replace(other.cut(room), label=None)
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


def with_steps(data: TokenizedData) -> list[TokenGroup]:
    """Return the groups with the step of every token: a step is a line, blank lines belong to the one before them.

    Args:
        data: tokenised with its texts.
    """

    def stepped(response: TokenResponse, text: ResponseText) -> TokenResponse:
        starts = np.concatenate(([0], text.ends[:-1]))
        return replace(response, steps=_line_numbers(text.text)[np.minimum(starts, len(text.text))])

    return [
        replace(group, responses=tuple(map(stepped, group.responses, texts)))
        for group, texts in zip(data.groups, data.texts, strict=True)
    ]


def _line_numbers(text: str) -> NDArray[np.int32]:
    """Return the number of its line for every character and for the end, blank lines counted with the line before."""
    numbers: list[int] = []
    line = -1
    for part in text.splitlines(keepends=True):
        line += bool(part.strip()) or line < 0
        numbers += [line] * len(part)
    return np.array([*numbers, max(line, 0)], np.int32)


def with_ratings(groups: Sequence[TokenGroup], names: Sequence[str]) -> tuple[list[TokenGroup], int]:
    """Return the groups with the ratings of every response as numbers, NaN where one is missing.

    A response that is rated on none of these attributes is left out, and a group without a response.

    Args:
        groups: tokenised from examples that were read for their ratings.
        names: the attributes, in the order of the model's outputs.

    Returns:
        The groups, and how many responses were left out.
    """
    found: list[TokenGroup] = []
    for group in groups:
        ratings = [{} if one.given is None else one.given.ratings for one in group.responses]
        rated = tuple(
            replace(response, ratings=np.array([given.get(name, np.nan) for name in names], np.float32))
            for response, given in zip(group.responses, ratings, strict=True)
            if given.keys() & set(names)
        )
        if rated:
            found.append(replace(group, responses=rated))
    return found, sum(len(group.responses) for group in groups) - sum(len(group.responses) for group in found)


def rated_attributes(groups: Sequence[TokenGroup]) -> list[str]:
    """Return the attributes that responses are rated on, in the order in which they come up."""
    given = (response.given for group in groups for response in group.responses)
    return list(dict.fromkeys(name for one in given if one is not None for name in one.ratings))


def with_step_labels(data: TokenizedData) -> tuple[list[TokenGroup], int]:
    """Return the groups with the label of each step at its last token, and how many responses were cut before one.

    A step ends with the last token whose piece begins in it; the last one with the response (its EOS). A step that was
    cut, or that has no token of its own, has no end, and is not read.

    Args:
        data: tokenised with its texts, from examples that were read for their steps.
    """
    found: list[TokenGroup] = []
    lost = 0
    for group, texts in zip(data.groups, data.texts, strict=True):
        responses = [_step_labelled(*both) for both in zip(group.responses, texts, strict=True)]
        kept = tuple(response for response in responses if (np.asarray(response.step_labels) >= 0).any())
        lost += len(responses) - len(kept)
        if kept:
            found.append(replace(group, responses=kept))
    return found, lost


def _step_labelled(response: TokenResponse, text: ResponseText) -> TokenResponse:
    given, size = response.given, len(response.ids)
    labels = np.full(size, -1, np.int8)
    steps = () if given is None else given.steps
    starts = np.concatenate(([0], text.ends[:-1]))
    pieces = text.ends > starts  # a token without a piece goes with the one before it
    for number, (begin, end) in enumerate(step_stretches(text.text, steps)):
        last = number == len(steps) - 1 and response.terminal
        inside = np.flatnonzero((starts >= begin) & (starts < end) & pieces)
        if given is not None and (last or (len(inside) and (end < len(text.text) or response.terminal))):
            labels[size - 1 if last else inside[-1]] = given.step_labels[number]
    return replace(response, step_labels=labels)


def with_contrast(data: TokenizedData, path: Path) -> list[TokenGroup]:
    """Return the groups with log π₊ − log π₋ of every token, from traces of the same texts.

    Args:
        data: tokenised with its texts.
        path: what `tokenq score --policy GOOD --reference BAD --output` wrote of this data.

    Raises:
        UserError: a response is not in the traces, or tokenised otherwise there.
    """
    traces = {(trace.prompt, _ids(trace)): trace for trace in read_traces(path)}

    def contrasted(group: TokenGroup, response: TokenResponse, text: ResponseText) -> TokenResponse:
        trace = traces.get((text.prompt, tuple(response.ids.tolist())))
        if trace is None:
            raise UserError(
                f"{group.where}: {path} holds no trace of one of its responses with the same tokens.",
                "Score this very data, with models of this tokenizer and the same --max-length and --style.",
            )
        trace.totals.given("logp")
        numbers = [0.0 if t.logp is None or t.ref_logp is None else t.logp - t.ref_logp for t in trace.tokens]
        return replace(response, contrast=np.array(numbers, np.float32))

    return [
        replace(group, responses=tuple(contrasted(group, *both) for both in zip(group.responses, texts, strict=True)))
        for group, texts in zip(data.groups, data.texts, strict=True)
    ]


class RewardScale(NamedTuple):
    """How rewards are normalised: (r − mean)/sd.

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
    refuse_equal(groups, ["rewards"])
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
                replace(response, reward=(reward - scale.mean) / scale.sd)
                for response, reward in zip(group.responses, rewards(group), strict=True)
            ),
        )
        for group in groups
    ]


def _ids(trace: TokenTrace) -> tuple[int, ...]:
    return tuple(-1 if token.id is None else token.id for token in trace.tokens)
