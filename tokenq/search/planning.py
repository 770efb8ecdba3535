"""From what was asked for to what the methods are told."""

from collections.abc import Iterable
from math import isfinite

from tokenq.errors import UserError
from tokenq.search.beam import Beams
from tokenq.search.chunks import Chunks
from tokenq.search.config import SearchConfig
from tokenq.search.guidance import find_objective
from tokenq.search.lookahead import Lookahead
from tokenq.search.methods import VALUE, Plan, early_stopping, find_method
from tokenq.search.sampling import Sampling
from tokenq.search.tree import Tree


def plan_of(config: SearchConfig) -> Plan:
    """Return the plan of a configuration; what judges, answers and reads along is added by the caller.

    Raises:
        UserError: an unknown name, or a number that makes no sense.
    """
    find_method(config.method)
    config.check_method()
    return Plan(
        objective=find_objective(config.objective),
        beta=0.1 if config.beta is None else config.beta,
        beams=Beams(
            config.width,
            config.length_penalty,
            early_stopping(config.early_stopping),
            config.groups,
            config.diversity_penalty,
        ),
        sampling=Sampling(config.temperature, config.top_k, config.top_p, config.min_p),
        count=config.n,
        ranking=config.ranking,
        chunks=Chunks(config.width, config.chunk_samples, config.chunk_length, config.chunk_from),
        lookahead=Lookahead(config.width, config.lookahead_top_k, config.lookahead_weight),
        tree=Tree(
            config.simulations,
            config.children,
            config.rule,
            config.exploration,
            config.backup,
            config.commit,
            config.rollouts,
        ),
        seed=config.seed,
        tokens_per_batch=config.tokens_per_batch,
    )


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


def check_room(prompts: Iterable[tuple[str, int]], budget: int | None, context: int | None) -> None:
    """Refuse a prompt that alone would spend the budget, or fill the context, before anything is computed.

    Args:
        prompts: where each comes from, and its number of tokens.
        budget: most tokens that may go through the policy for one of them.
        context: most tokens that the models read.

    Raises:
        UserError: names the prompt, and both numbers.
    """
    for where, tokens in prompts:
        if context is not None and context <= tokens:
            raise UserError(
                f"{where}: the prompt has {tokens} tokens, and the model reads {context} at most.",
                "Shorten the prompt, or leave it out.",
            )
        if budget is not None and budget <= tokens:
            raise UserError(
                f"{where}: a budget of {budget} tokens does not reach past the prompt's {tokens}.", "Raise --budget."
            )


STRONGEST = 1_000
"""Largest weight of a small pair; log-ratios times more than this are not numbers any more in half precision."""


def weights_of(config: SearchConfig) -> list[float]:
    """Return the weight of every small pair.

    Raises:
        UserError: not as many weights as pairs, or one that is no number.
    """
    pairs, odd = divmod(len(config.proxy), 2)
    if odd:
        raise UserError("--proxy takes pairs of models: the tuned and the untuned one.", "Name both of each pair.")
    try:
        alphas = [float(text) for text in config.alpha] or [1.0] * pairs
    except ValueError:
        raise UserError(f"--alpha takes numbers, not {' '.join(config.alpha)}.", "Give one for each pair.") from None
    if not all(isfinite(alpha) and abs(alpha) <= STRONGEST for alpha in alphas):
        raise UserError(f"--alpha {' '.join(config.alpha)} is no weight.", f"Give numbers of up to ±{STRONGEST:,}.")
    if len(alphas) != pairs:
        raise UserError(f"{len(alphas)} weights of --alpha for {pairs} pairs of --proxy.", "Give one for each pair.")
    return alphas
