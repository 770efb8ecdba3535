"""Every search by the name by which it is asked for, all with one signature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from tokenq.core.tensors import Stepper
from tokenq.errors import UserError, unknown_name
from tokenq.search.beam import Beams, beam_search
from tokenq.search.branches import Branch, Limits
from tokenq.search.chunks import Chunks, chunk_search
from tokenq.search.guidance import Objective
from tokenq.search.mcts import Node, Tree, mcts
from tokenq.search.rerank import RANKINGS, best_of
from tokenq.search.sampling import Sampling, greedy, sample

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What a method may be told; each takes its own part.

    Attributes:
        objective: what beams and trees maximise.
        beta: KL temperature of rewards.
        beams: for "beam".
        sampling: for "sample", "best_of_n" and "chunk_beam".
        count: samples for each prompt.
        ranking: key of `RANKINGS`, for "best_of_n".
        chunks: for "chunk_beam".
        tree: for "mcts".
        seed: of everything that is drawn.
    """

    objective: Objective
    beta: float = 0.1
    beams: Beams = field(default_factory=Beams)
    sampling: Sampling = field(default_factory=Sampling)
    count: int = 1
    ranking: str = "reward"
    chunks: Chunks = field(default_factory=Chunks)
    tree: Tree = field(default_factory=Tree)
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """What a search found for one prompt.

    Attributes:
        candidates: responses, best first.
        tree: the nodes of a tree search, empty for others.
    """

    candidates: list[Branch]
    tree: list[Node] = field(default_factory=list)


Method = Callable[[Stepper, Sequence[Sequence[int]], Limits, Plan, Progress], list[Found]]


def _greedy(
    stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits, plan: Plan, progress: Progress
) -> list[Found]:
    return [Found(branches) for branches in greedy(stepper, prompts, limits, progress)]


def _sample(
    stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits, plan: Plan, progress: Progress
) -> list[Found]:
    drawn = sample(stepper, prompts, limits, plan.sampling, count=plan.count, seed=plan.seed, progress=progress)
    return [Found(branches) for branches in drawn]


def _best_of_n(
    stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits, plan: Plan, progress: Progress
) -> list[Found]:
    score = partial(find_ranking(plan.ranking), beta=plan.beta)
    drawn = sample(stepper, prompts, limits, plan.sampling, count=plan.count, seed=plan.seed, progress=progress)
    return [Found(best_of(branches, score)) for branches in drawn]


def _beam(
    stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits, plan: Plan, progress: Progress
) -> list[Found]:
    found = beam_search(stepper, prompts, limits, plan.beams, plan.objective, plan.beta, progress)
    return [Found(branches) for branches in found]


def _chunk_beam(
    stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits, plan: Plan, progress: Progress
) -> list[Found]:
    found = chunk_search(stepper, prompts, limits, plan.chunks, plan.sampling, beta=plan.beta, seed=plan.seed)
    return [Found(branches) for branches in found]


def _mcts(
    stepper: Stepper, prompts: Sequence[Sequence[int]], limits: Limits, plan: Plan, progress: Progress
) -> list[Found]:
    found = mcts(stepper, prompts, limits, plan.tree, plan.objective, plan.beta, progress=progress)
    return [Found(branches, nodes) for branches, nodes in found]


METHODS: dict[str, Method] = {
    "greedy": _greedy,
    "sample": _sample,
    "best_of_n": _best_of_n,
    "beam": _beam,
    "chunk_beam": _chunk_beam,
    "mcts": _mcts,
}


def find_method(name: str) -> Method:
    """Return the search of that name.

    Raises:
        UserError: an unknown method.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def find_ranking(name: str) -> Callable[..., float]:
    """Return the score of a ranking.

    Raises:
        UserError: an unknown ranking.
    """
    if name not in RANKINGS:
        raise unknown_name("ranking", name, RANKINGS)
    return RANKINGS[name].score


def needs_reference(method: str, plan: Plan) -> bool:
    """Return whether a method must see the reference's log-probs to do what the plan says."""
    if method == "best_of_n":
        return RANKINGS[plan.ranking].reference
    return method == "chunk_beam" or (method in ("beam", "mcts") and plan.objective.reference)


def early_stopping(word: str) -> bool | Literal["never"]:
    """Return what "true", "false" or "never" stand for.

    Raises:
        UserError: another word.
    """
    if word not in ("true", "false", "never"):
        raise UserError(f"early_stopping is true, false or never, not {word!r}.", "See tokenq search --help.")
    return "never" if word == "never" else word == "true"
