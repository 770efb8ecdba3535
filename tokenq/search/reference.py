"""The reference's word on responses that are already written: one forward over shared prompts, not one a token."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import TokenScorer
from tokenq.records import TokenGroup, TokenResponse
from tokenq.search.branches import Branch


def with_reference(
    prompts: Sequence[Sequence[int]], found: Sequence[Sequence[Branch]], reference: TokenScorer, budget: int
) -> list[list[Branch]]:
    """Return the responses to every prompt with log π_ref of their tokens; there may be none to a prompt.

    Args:
        prompts: token ids of every prompt.
        found: responses to each of them.
        reference: scores tokens.
        budget: most tokens in one forward.
    """
    groups = [
        TokenGroup(np.array(prompt, np.int32), tuple(map(_response, branches)), False, f"prompt {number}")
        for number, (prompt, branches) in enumerate(zip(prompts, found, strict=True), 1)
    ]
    filled = [list(branches) for branches in found]
    for places in plan_pass([group.n_tokens for group in groups], budget):
        batch = pack([groups[place] for place in places], places)
        if not len(batch.targets):
            continue
        with torch.no_grad():
            padded = batch.actions.to("cpu").pad(reference(batch).cpu()).logps.tolist()
        for (group, place), logps in zip(batch.actions.members, padded, strict=True):
            branch = filled[group][place]
            filled[group][place] = replace(branch, ref_logps=tuple(logps[: len(branch.tokens)]))
    return filled


def _response(branch: Branch) -> TokenResponse:
    ids = np.array(branch.tokens, np.int32)
    return TokenResponse(ids, np.ones(len(ids), np.bool_), terminal=False)
