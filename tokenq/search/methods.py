"""Every search by the name by which it is asked for, all with one signature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from tokenq.core.tensors import TokenScorer
from tokenq.errors import UserError, unknown_name
from tokenq.search.beam import Beams, beam_search
from tokenq.search.beam_sampling import beam_sample
from tokenq.search.branches import Branch, Progress, Visited, Walk, silent
from tokenq.search.chunks import Chunks, chunk_search
from tokenq.search.guidance import OBJECTIVES, Objective, Value, implicit_reward
from tokenq.search.lookahead import Lookahead, lookahead_search
from tokenq.search.mcts import Aim, mcts
from tokenq.search.reference import with_reference
from tokenq.search.rerank import RANKINGS, best_of, find_ranking, tilt, vote
from tokenq.search.sampling import Sampling, greedy, sample
from tokenq.search.tree import Tree

VALUE = "value"
"""The ranking by the plan's own value: a reward model, or any function."""


@dataclass(frozen=True)
class Plan:
    """What a method may be told; each takes its own part.

    Attributes:
        objective: what beams and trees maximise.
        beta: KL temperature of rewards.
        beams: for "beam" and "beam_sample".
        sampling: for all that samples.
        count: samples for each prompt.
        ranking: key of `RANKINGS`, or "value": for "best_of_n", and the votes of "weighted_vote".
        chunks: for "chunk_beam".
        lookahead: for "lookahead".
        tree: for "mcts".
        seed: of everything that is drawn.
        value: what a response, complete or not, is worth: for "lookahead" (the implicit reward when None), "mcts" (the
            objective when None) and the ranking "value".
        answer: what a response answers, for the votes.
        reference: scores responses where no reference ran beside the policy; None where there is none.
        tokens_per_batch: most tokens in one forward of that.
    """

    objective: Objective = OBJECTIVES["likelihood"]
    beta: float = 0.1
    beams: Beams = field(default_factory=Beams)
    sampling: Sampling = field(default_factory=Sampling)
    count: int = 8
    ranking: str = "reward"
    chunks: Chunks = field(default_factory=Chunks)
    lookahead: Lookahead = field(default_factory=Lookahead)
    tree: Tree = field(default_factory=Tree)
    seed: int = 0
    value: Value | None = None
    answer: Callable[[Branch], str | None] | None = None
    reference: TokenScorer | None = None
    tokens_per_batch: int = 4096

    def rank(self, branches: Sequence[Branch]) -> Sequence[float]:
        """Return what the plan's ranking gives complete responses.

        Raises:
            UserError: an unknown ranking, one that needs a reference, or "value" without a value.
        """
        if self.ranking != VALUE:
            return find_ranking(self.ranking, self.beta)(branches)
        if self.value is None:
            raise UserError("Ranking by value needs something that judges.", "Name a --reward-model.")
        return self.value(branches)


@dataclass(frozen=True)
class Found:
    """What a search found for one prompt.

    Attributes:
        candidates: responses, best first.
        tree: what was looked at on the way; empty for methods that have no tree.
    """

    candidates: list[Branch]
    tree: list[Visited] = field(default_factory=list)


class Method(NamedTuple):
    """A row of the table.

    Attributes:
        find: searches all prompts of a walk.
        steps_reference: whether the reference must run beside the policy, token by token.
        rank: orders what was found; None leaves it as it is.
    """

    find: Callable[[Walk, Plan, Progress], list[Found]]
    steps_reference: Callable[[Plan], bool] = lambda _: False
    rank: Callable[[Sequence[Branch], Plan], list[Branch]] | None = None


def _greedy(walk: Walk, plan: Plan, progress: Progress) -> list[Found]:
    return [Found(branches) for branches in greedy(walk, progress)]


def _sample(walk: Walk, plan: Plan, progress: Progress) -> list[Found]:
    drawn = sample(walk, plan.sampling, count=plan.count, seed=plan.seed, progress=progress)
    return [Found(branches) for branches in drawn]


def _beam(walk: Walk, plan: Plan, progress: Progress) -> list[Found]:
    found = beam_search(walk, plan.beams, plan.objective, plan.beta, progress)
    return [Found(*both) for both in zip(found, walk.lattices, strict=True)]


def _beam_sample(walk: Walk, plan: Plan, progress: Progress) -> list[Found]:
    found = beam_sample(walk, plan.beams, plan.sampling, seed=plan.seed, progress=progress)
    return [Found(*both) for both in zip(found, walk.lattices, strict=True)]


def _chunk_beam(walk: Walk, plan: Plan, progress: Progress) -> list[Found]:
    found = chunk_search(walk, plan.chunks, plan.sampling, beta=plan.beta, seed=plan.seed, progress=progress)
    return [Found(*both) for both in zip(found, walk.lattices, strict=True)]


def _lookahead(walk: Walk, plan: Plan, progress: Progress) -> list[Found]:
    found = lookahead_search(walk, plan.value or implicit_reward(plan.beta), plan.lookahead, progress)
    return [Found(*both) for both in zip(found, walk.lattices, strict=True)]


def _mcts(walk: Walk, plan: Plan, progress: Progress) -> list[Found]:
    aim = Aim(plan.objective, plan.beta, plan.value, plan.sampling, plan.seed)
    return [Found(*both) for both in mcts(walk, plan.tree, aim, progress)]


def _best_of_n(branches: Sequence[Branch], plan: Plan) -> list[Branch]:
    return best_of(branches, plan.rank(branches))


def _answers(branches: Sequence[Branch], plan: Plan) -> list[str | None]:
    if plan.answer is None:
        raise UserError("A vote needs answers.", "Say how they are found: --answer last_number, boxed, math or regex:…")
    return [plan.answer(branch) for branch in branches]


def _majority(branches: Sequence[Branch], plan: Plan) -> list[Branch]:
    return vote(branches, _answers(branches, plan))


def _weighted_vote(branches: Sequence[Branch], plan: Plan) -> list[Branch]:
    return vote(branches, _answers(branches, plan), tilt(plan.rank(branches)))


def _objective_needs_it(plan: Plan) -> bool:
    return plan.objective.reference


METHODS: dict[str, Method] = {
    "greedy": Method(_greedy),
    "sample": Method(_sample),
    "best_of_n": Method(_sample, rank=_best_of_n),
    "majority": Method(_sample, rank=_majority),
    "weighted_vote": Method(_sample, rank=_weighted_vote),
    "beam": Method(_beam, _objective_needs_it),
    "beam_sample": Method(_beam_sample),
    "chunk_beam": Method(_chunk_beam, lambda _: True),
    "lookahead": Method(_lookahead, lambda plan: plan.value is None),
    "mcts": Method(_mcts, lambda plan: plan.value is None and plan.objective.reference),
}


def find_method(name: str) -> Method:
    """Return the search of that name.

    Raises:
        UserError: an unknown method.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def needs_reference(name: str, plan: Plan) -> bool:
    """Return whether a method cannot do what the plan says without a reference, stepped or not."""
    method = find_method(name)
    ranks = name in ("best_of_n", "weighted_vote") and plan.ranking in RANKINGS and RANKINGS[plan.ranking].reference
    return ranks or method.steps_reference(plan)


def search(walk: Walk, name: str, plan: Plan, progress: Progress = silent) -> list[Found]:
    """Return what a method finds for every prompt of a walk, with the reference's log-probs where the plan has one.

    Args:
        walk: prompts and limits, at their beginning.
        name: key of `METHODS`.
        plan: what the method is told.
        progress: told how far it is.

    Raises:
        UserError: an unknown method, or one that misses what it needs.
    """
    method = find_method(name)
    found = method.find(walk, plan, progress)
    if walk.frontier.ref_logps is None and plan.reference is not None:
        filled = with_reference(walk.prompts, [one.candidates for one in found], plan.reference, plan.tokens_per_batch)
        found = [replace(one, candidates=branches) for one, branches in zip(found, filled, strict=True)]
    rank = method.rank
    found = found if rank is None else [replace(one, candidates=rank(one.candidates, plan)) for one in found]
    return [replace(one, candidates=_settled(one.candidates, walk)) for one in found]


def _settled(candidates: Sequence[Branch], walk: Walk) -> list[Branch]:
    """Return candidates in their order, complete ones before those that a limit cut; remember a context that was full.

    What is cut cannot be compared: fewer tokens have a larger likelihood, and no end to be judged.
    """
    for branch in candidates:
        own = walk.own[branch.prompt]
        full = len(branch.tokens) == own.max_new_tokens < walk.limits.max_new_tokens
        if full and branch.tokens[-1] not in own.eos and walk.stopped[branch.prompt] is None:
            walk.stopped[branch.prompt] = "context"
    return sorted(candidates, key=lambda branch: not walk.over(branch))


def early_stopping(word: str) -> bool | Literal["never"]:
    """Return what "true", "false" or "never" stand for.

    Raises:
        UserError: another word.
    """
    if word not in ("true", "false", "never"):
        raise UserError(f"early_stopping is true, false or never, not {word!r}.", "See tokenq search --help.")
    return "never" if word == "never" else word == "true"
