"""From what a search holds to what is kept of it: the reference's word, candidates with their texts, and the tree."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import torch

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import TokenScorer
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.results import Candidate, SearchTree
from tokenq.search.branches import Branch, Visited


def candidates_of(
    branches: Sequence[Branch],
    pieces: Callable[[Sequence[int]], Sequence[str]],
    eos: Collection[int],
    answer: Callable[[str], str | None] | None,
) -> tuple[Candidate, ...]:
    """Return responses at rest, in their order; one without a token is none.

    Args:
        branches: the responses.
        pieces: (token ids of one) → what each of them adds to its text.
        eos: the ids that end a response.
        answer: (text) → what it answers; None where nobody asks.
    """
    written = [(branch, tuple(pieces(branch.tokens))) for branch in branches if branch.tokens]
    return tuple(
        Candidate(
            said := "".join(texts),
            branch.tokens,
            branch.score,
            branch.logps,
            branch.ref_logps or None,
            branch.tokens[-1] in eos,
            None if answer is None else answer(said),
            texts,
        )
        for branch, texts in written
    )


def tree_of(nodes: Sequence[Visited], text: Callable[[int, int], str]) -> SearchTree:
    """Return a lattice or a tree at rest, as columns.

    Args:
        nodes: its nodes, a parent before its children.
        text: (token before, −1 for none, token) → the text that the second adds behind the first.
    """
    simulated = any(node.visits for node in nodes)
    return SearchTree(
        parents=tuple(node.parent for node in nodes),
        token_ids=tuple(node.token for node in nodes),
        texts=tuple("" if node.token < 0 else text(nodes[node.parent].token, node.token) for node in nodes),
        logps=tuple(node.logp for node in nodes),
        scores=tuple(node.score for node in nodes),
        ends=tuple(node.ends for node in nodes),
        visits=tuple(node.visits for node in nodes) if simulated else (),
        values=tuple(node.value for node in nodes) if simulated else (),
    )


def ranked(
    candidates: Sequence[Candidate], rank: Callable[[Sequence[Branch]], Sequence[Branch]]
) -> tuple[Candidate, ...]:
    """Return candidates at rest in the order and with the scores that a ranking of branches gives them.

    Args:
        candidates: the responses.
        rank: (branches) → the same, best first.
    """
    return tuple(replace(candidates[branch.row], score=branch.score) for branch in rank(as_branches(candidates)))


def as_branches(candidates: Sequence[Candidate]) -> list[Branch]:
    """Return candidates at rest as the branches that they were, their rows numbered."""
    return [
        Branch(one.token_ids, one.logps, one.ref_logps or (), one.score, row=row) for row, one in enumerate(candidates)
    ]


def with_reference(
    prompts: Sequence[Sequence[int]], found: Sequence[Sequence[Branch]], reference: TokenScorer, budget: int
) -> list[list[Branch]]:
    """Return the responses to every prompt with log π_ref of their tokens, by one forward; a prompt may have none.

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
