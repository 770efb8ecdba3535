"""Token groups to packed batches, and a step's groups to micro-batches of bounded size.

`pack` is the only place that lays out prefix-shared rows and shifts tokens against the states that predict them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenq.core.tensors import Actions, PackedBatch, Segment
from tokenq.records.examples import TokenGroup, TokenResponse


def pack(
    groups: Sequence[TokenGroup],
    indices: Sequence[int] | None = None,
    responses: Sequence[Sequence[int]] | None = None,
) -> PackedBatch:
    """Return one flat prefix-shared row: every prompt once, followed by all its responses.

    The state after the last prompt token predicts the first token of every response, the state after response token t
    predicts token t + 1; the last token of a response predicts nothing and is no input.

    Args:
        groups: the groups of the micro-batch.
        indices: their places in the data set; 0, 1, … when None.
        responses: of each, the places of its responses in the group of the data set; 0, 1, … when None.
    """
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    segments: list[Segment] = []
    targets: list[tuple[np.ndarray, np.ndarray, int, np.ndarray]] = []
    members: list[tuple[int, int]] = []
    pairs: list[tuple[int, int]] = []
    cursor = 0
    for place, group in enumerate(groups):
        start, length = cursor, len(group.prompt_ids)
        ids.append(group.prompt_ids)
        positions.append(np.arange(length))
        cursor = stop = start + length
        if group.is_pair:
            roles = [response.role for response in group.responses]
            pairs.append((len(members) + roles.index("chosen"), len(members) + roles.index("rejected")))
        for which, response in enumerate(group.responses):
            n = len(response.ids)
            predictors = np.arange(cursor - 1, cursor - 1 + n)
            predictors[0] = stop - 1
            places = np.flatnonzero(response.mask)
            targets.append((predictors[places], response.ids[places], len(members), places))
            number = which if responses is None else responses[place][which]
            members.append((place if indices is None else indices[place], number))
            if n > 1:
                ids.append(response.ids[:-1])
                positions.append(np.arange(length, length + n - 1))
                cursor += n - 1
            if which == 0:  # the first response continues its prompt: one causal run
                segments.append(Segment(start, cursor, cursor, cursor))
            elif n > 1:
                segments.append(Segment(cursor - n + 1, cursor, start, stop))
    every = [response for group in groups for response in group.responses]
    return PackedBatch(
        input_ids=_long(np.concatenate(ids)),
        position_ids=_long(np.concatenate(positions)),
        segments=tuple(segments),
        predictors=_long(np.concatenate([t[0] for t in targets])),
        targets=_long(np.concatenate([t[1] for t in targets])),
        actions=Actions(
            responses=_long(np.repeat([t[2] for t in targets], [len(t[3]) for t in targets])),
            places=_long(np.concatenate([t[3] for t in targets])),
            shape=(len(members), max(len(response.ids) for response in every)),
            roles=tuple(response.role for response in every),
            pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
            members=tuple(members),
            origins=tuple(group.where for group in groups for _ in group.responses),
            token_columns=of_all([_written(one) for one in every], np.concatenate),
            response_columns=of_all([one.response_columns for one in every], partial(np.asarray, dtype=np.float32)),
        ),
    )


def _written(response: TokenResponse) -> dict[str, NDArray[Any]]:
    """Return the columns of a response at the tokens that the policy wrote."""
    return {name: column[response.mask] for name, column in response.token_columns.items()}


def of_all(columns: Sequence[Mapping[str, Any]], joined: Callable[[Any], NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return the columns that every response has, those of all responses as one.

    Args:
        columns: of each response, by name.
        joined: makes one array of those of all.
    """
    names = [name for name in columns[0] if all(name in own for own in columns)]
    return {name: torch.from_numpy(joined([own[name] for own in columns])) for name in names}


def at_own_state(group: TokenGroup, reads: Callable[[TokenResponse], NDArray[np.bool_]]) -> TokenGroup:
    """Return a group whose packed row has a target at every token that is to be read, with that token's own state.

    A packed row leaves out the last token of a response, at which a reward model is read. So one more id stands behind
    it, which is no input and of which nobody asks the log-prob, and every mask moves by one: the state that "predicts"
    target t is the state at token t.

    Args:
        group: a prompt with its responses.
        reads: (response) → [n] at which of its tokens a number is read.
    """
    return replace(group, responses=tuple(_at_own_state(response, reads(response)) for response in group.responses))


def _at_own_state(response: TokenResponse, read: NDArray[np.bool_]) -> TokenResponse:
    return replace(
        response,
        ids=np.append(response.ids, response.ids[-1:]),
        mask=np.append(False, read),
        token_columns={name: np.concatenate((one[:1], one)) for name, one in response.token_columns.items()},
    )


def last_token(response: TokenResponse) -> NDArray[np.bool_]:
    """Return a mask of the last token of a response, where a reward model reads it."""
    mask = np.zeros(len(response.ids), np.bool_)
    mask[-1] = True
    return mask


def every_token(response: TokenResponse) -> NDArray[np.bool_]:
    """Return a mask of all tokens of a response."""
    return np.ones(len(response.ids), np.bool_)


def step_ends(response: TokenResponse) -> NDArray[np.bool_]:
    """Return a mask of the tokens at which a labelled step ends."""
    found: NDArray[np.bool_] = response.token_columns["step_labels"] >= 0
    return found


def plan_step(lengths: Sequence[int], budget: int, processes: int = 1) -> list[list[list[int]]]:
    """Return [process][micro-batch] → places of a step's groups, so that every process has as many micro-batches.

    Longest first into the emptiest micro-batch: no micro-batch exceeds `budget` tokens unless one group alone does,
    and all are of about the same size. Groups of like length meet only by chance, so the composition of the step, and
    with it the gradient, does not depend on the budget. A micro-batch may be empty when there are fewer groups than
    micro-batches; its process still takes part in collective calls.

    Args:
        lengths: tokens of each group.
        budget: most tokens in one micro-batch.
        processes: how many processes share the step.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # Never more than one micro-batch a group: groups longer than the budget would ask for empty ones.
    rounds = max(1, min(-(-sum(lengths) // (budget * processes)), -(-len(lengths) // processes)))
    while True:
        bins: list[list[int]] = [[] for _ in range(rounds * processes)]
        fill = [0] * len(bins)
        for i in order:
            b = fill.index(min(fill))
            bins[b].append(i)
            fill[b] += lengths[i]
        if all(total <= budget or len(b) == 1 for total, b in zip(fill, bins, strict=True)):
            break
        rounds += 1
    return [[bins[r * processes + p] for r in range(rounds)] for p in range(processes)]


def plan_pass(lengths: Sequence[int], budget: int, first: int = 0) -> list[list[int]]:
    """Return micro-batches of groups of like length for a pass over the data in any order (reference, evaluation).

    Args:
        lengths: tokens of each group.
        budget: most tokens in one micro-batch; a longer group stands alone.
        first: the groups before it are done: micro-batches of these alone are left out, and the rest stay what they
            are in a whole pass, so that a pass that goes on gives the same bits.
    """
    batches: list[list[int]] = []
    total = budget + 1
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if total + lengths[i] > budget:
            batches.append([])
            total = 0
        batches[-1].append(i)
        total += lengths[i]
    return [batch for batch in batches if max(batch) >= first]


def _long(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))
