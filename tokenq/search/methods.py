"""Every search by the name by which it is asked for, all with one signature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tokenq.core.tensors import TokenScorer
from tokenq.errors import UserError, unknown_name
from tokenq.listener import Progress, silent
from tokenq.search.beam import beam_search
from tokenq.search.beam_sampling import beam_sample
from tokenq.search.branches import Branch, Visited, Walk
from tokenq.search.chunks import chunk_search
from tokenq.search.config import SearchConfig
from tokenq.search.guidance import Value, find_objective, implicit_reward
from tokenq.search.lookahead import lookahead_search
from tokenq.search.mcts import Aim, mcts
from tokenq.search.outcome import with_reference
from tokenq.search.rerank import RANKINGS, best_of, find_ranking, tilt, vote
from tokenq.search.sampling import greedy, sample
from tokenq.search.settings import PARTS, Beams, Chunks, Lookahead, Sampling, Tree, part

VALUE = "value"
"""The ranking by what judges: a reward model, or any function."""


@dataclass(frozen=True)
class Aids:
    """The functions and models that a search uses beside its settings.

    Attributes:
        value: what a response, complete or not, is worth: for "lookahead" (the implicit reward when None), "mcts" (the
            objective when None) and the ranking "value".
        answer: what a response answers, for the votes.
        reference: scores responses where no reference ran beside the policy; None where there is none.
    """

    value: Value | None = None
    answer: Callable[[Branch], str | None] | None = None
    reference: TokenScorer | None = None


def rank(branches: Sequence[Branch], config: SearchConfig, aids: Aids) -> Sequence[float]:
    """Return the scores of complete responses under the ranking of a configuration.

    Raises:
        UserError: an unknown ranking, one that needs a reference, or "value" without a value.
    """
    if config.ranking != VALUE:
        return find_ranking(config.ranking, config.reward_beta)(branches)
    if aids.value is None:
        raise UserError("Ranking by value needs something that judges.", "Name a --reward-model.")
    return aids.value(branches)


@dataclass(frozen=True)
class SearchOutcome:
    """The result of a search for one prompt.

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

    find: Callable[[Walk, SearchConfig, Aids, Progress], list[SearchOutcome]]
    steps_reference: Callable[[SearchConfig, Aids], bool] = lambda *_: False
    rank: Callable[[Sequence[Branch], SearchConfig, Aids], list[Branch]] | None = None


def _greedy(walk: Walk, config: SearchConfig, aids: Aids, progress: Progress) -> list[SearchOutcome]:
    return [SearchOutcome(branches) for branches in greedy(walk, progress)]


def _sample(walk: Walk, config: SearchConfig, aids: Aids, progress: Progress) -> list[SearchOutcome]:
    drawn = sample(walk, part(Sampling, config), count=config.n, seed=config.seed, progress=progress)
    return [SearchOutcome(branches) for branches in drawn]


def _with_lattices(found: list[list[Branch]], walk: Walk) -> list[SearchOutcome]:
    return [SearchOutcome(*both) for both in zip(found, walk.lattices, strict=True)]


def _beam(walk: Walk, config: SearchConfig, aids: Aids, progress: Progress) -> list[SearchOutcome]:
    objective = find_objective(config.objective)
    return _with_lattices(beam_search(walk, part(Beams, config), objective, config.reward_beta, progress), walk)


def _beam_sample(walk: Walk, config: SearchConfig, aids: Aids, progress: Progress) -> list[SearchOutcome]:
    beams, sampling = part(Beams, config), part(Sampling, config)
    return _with_lattices(beam_sample(walk, beams, sampling, seed=config.seed, progress=progress), walk)


def _chunk_beam(walk: Walk, config: SearchConfig, aids: Aids, progress: Progress) -> list[SearchOutcome]:
    chunks, sampling, beta = part(Chunks, config), part(Sampling, config), config.reward_beta
    return _with_lattices(chunk_search(walk, chunks, sampling, beta=beta, seed=config.seed, progress=progress), walk)


def _lookahead(walk: Walk, config: SearchConfig, aids: Aids, progress: Progress) -> list[SearchOutcome]:
    value = aids.value or implicit_reward(config.reward_beta)
    return _with_lattices(lookahead_search(walk, value, part(Lookahead, config), progress), walk)


def _mcts(walk: Walk, config: SearchConfig, aids: Aids, progress: Progress) -> list[SearchOutcome]:
    objective, sampling = find_objective(config.objective), part(Sampling, config)
    aim = Aim(objective, config.reward_beta, aids.value, sampling, config.seed)
    return [SearchOutcome(*both) for both in mcts(walk, part(Tree, config), aim, progress)]


def _best_of_n(branches: Sequence[Branch], config: SearchConfig, aids: Aids) -> list[Branch]:
    return best_of(branches, rank(branches, config, aids))


def _answers(branches: Sequence[Branch], aids: Aids) -> list[str | None]:
    if aids.answer is None:
        raise UserError("A vote needs answers.", "Say how they are found: --answer last_number, boxed, math or regex:…")
    return [aids.answer(branch) for branch in branches]


def _majority(branches: Sequence[Branch], config: SearchConfig, aids: Aids) -> list[Branch]:
    return vote(branches, _answers(branches, aids))


def _weighted_vote(branches: Sequence[Branch], config: SearchConfig, aids: Aids) -> list[Branch]:
    return vote(branches, _answers(branches, aids), tilt(rank(branches, config, aids)))


def _rewarded(config: SearchConfig, aids: Aids) -> bool:
    return find_objective(config.objective).reference


METHODS: dict[str, Method] = {
    "greedy": Method(_greedy),
    "sample": Method(_sample),
    "best_of_n": Method(_sample, rank=_best_of_n),
    "majority": Method(_sample, rank=_majority),
    "weighted_vote": Method(_sample, rank=_weighted_vote),
    "beam": Method(_beam, _rewarded),
    "beam_sample": Method(_beam_sample),
    "chunk_beam": Method(_chunk_beam, lambda *_: True),
    "lookahead": Method(_lookahead, lambda _, aids: aids.value is None),
    "mcts": Method(_mcts, lambda config, aids: aids.value is None and _rewarded(config, aids)),
}


def find_method(name: str) -> Method:
    """Return the search of that name.

    Raises:
        UserError: an unknown method.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def needs_reference(config: SearchConfig, aids: Aids) -> bool:
    """Return whether a search cannot be done without a reference, stepped or not."""
    known = RANKINGS.get(config.ranking)
    ranks = config.method in ("best_of_n", "weighted_vote") and known is not None and known.reference
    return ranks or find_method(config.method).steps_reference(config, aids)


def check_parts(config: SearchConfig) -> None:
    """Refuse what a search would stumble over.

    Raises:
        UserError: an unknown name, or a number that makes no sense.
    """
    find_method(config.method)
    config.check_method()
    find_objective(config.objective)
    for kind in PARTS:
        part(kind, config)


def aims_at(config: SearchConfig, *, judged: bool) -> str:
    """Return the name of what a method maximises or ranks by, as results have it; `judged` where a judge stands by."""
    if config.method == "mcts" and judged:
        return VALUE
    if config.method in ("beam", "mcts"):
        return config.objective
    if config.method in ("best_of_n", "weighted_vote"):
        return config.ranking
    return {"chunk_beam": "reward", "lookahead": "likelihood + value", "majority": "votes"}.get(
        config.method, "likelihood"
    )


def search(
    walk: Walk, config: SearchConfig, aids: Aids | None = None, progress: Progress = silent
) -> list[SearchOutcome]:
    """Search with a method for every prompt of a walk, with the reference's log-probs if there is a reference.

    Args:
        walk: prompts and limits, at their beginning.
        config: which method, and its settings.
        aids: what stands by.
        progress: told how far it is.

    Raises:
        UserError: an unknown method, or one that misses what it needs.
    """
    aids, method = aids or Aids(), find_method(config.method)
    found = method.find(walk, config, aids, progress)
    if walk.frontier.ref_logps is None and aids.reference is not None:
        written = [one.candidates for one in found]
        filled = with_reference(walk.prompts, written, aids.reference, config.tokens_per_batch)
        found = [replace(one, candidates=branches) for one, branches in zip(found, filled, strict=True)]
    order = method.rank
    found = found if order is None else [replace(one, candidates=order(one.candidates, config, aids)) for one in found]
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
