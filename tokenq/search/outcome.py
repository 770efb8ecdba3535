"""From what a search holds to what is kept of it: candidates with their texts, and the tree."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from tokenq.results import Candidate, SearchTree
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
