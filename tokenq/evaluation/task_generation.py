"""How good are answers that were searched or sampled? Verified, with their cost; and reward against KL.

Both read stored results, so that nothing is written twice and any search can be judged afterwards.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tokenq.errors import UserError
from tokenq.records.results import Candidate, SearchResult
from tokenq.stats.bootstrap import PLAIN, Floats, Resampling, difference_interval, mean_interval
from tokenq.stats.outcome import Cell, Chart, Curve, ListedExample, Outcome, Table, worst_first

Quality = Callable[[SearchResult, Candidate], float]
"""(result, one of its candidates) → how good it is; larger is better."""


def generation(systems: Mapping[str, Sequence[SearchResult]], quality: Quality, how: Resampling = PLAIN) -> Outcome:
    """Return how good the answers of some systems are, the first being the one that others are compared with.

    For samples the quality is the mean over all of them, else that of the best candidate.

    Args:
        systems: by name, what each found for the same prompts.
        quality: how good a candidate is.
        how: resamples, confidence, seed.

    Raises:
        UserError: systems answered different prompts.
    """
    values = {name: qualities(results, quality) for name, results in same_prompts(systems).items()}
    first = next(iter(values))
    rows: list[list[Cell]] = []
    numbers = {}
    for name, own in values.items():
        results = systems[name]
        best = [one.candidates[0] for one in results if one.candidates]
        estimate = mean_interval(own, how=how)
        gain = None if name == first else difference_interval(own, values[first], how=how)
        cost = {
            "policy_tokens": float(np.mean([one.cost.policy_tokens for one in results])),
            "reference_tokens": float(np.mean([one.cost.reference_tokens for one in results])),
            "seconds": float(np.mean([one.cost.seconds for one in results])),
        }
        length = float(np.mean([len(one.token_ids) for one in best])) if best else 0.0
        terminal = float(np.mean([one.terminal for one in best])) if best else 0.0
        rows.append([name, estimate, gain, length, terminal, *cost.values()])
        numbers[name] = {"quality": estimate, "gain": gain, "length": length, "terminal": terminal, **cost}
    head = ("system", "quality", f"− {first}", "length", "terminal", "policy tokens", "reference tokens", "seconds")
    note = f"{len(values[first])} prompts; means a prompt; differences are paired"
    examples = [
        ListedExample(one.id, one.id, {name: float(own[place]) for name, own in values.items()})
        for place, one in enumerate(systems[first])
    ]
    ordered = worst_first(examples, first)
    total = {
        "policy_tokens": float(sum(one.cost.policy_tokens for results in systems.values() for one in results)),
        "reference_tokens": float(sum(one.cost.reference_tokens for results in systems.values() for one in results)),
    }
    return Outcome("generation", numbers, [Table("answers", head, rows, note)], (), ordered, total)


def frontier(systems: Mapping[str, Sequence[SearchResult]], quality: Quality, how: Resampling = PLAIN) -> Outcome:
    """Return quality against KL(π‖π_ref), for several checkpoints, temperatures of the KL, or methods.

    The KL of a prompt is the mean of log π − log π_ref over its samples, which is unbiased for samples of π itself
    (temperature 1, no filters) and says how far a search has gone otherwise.

    Args:
        systems: by name, samples of the same prompts with the reference's log-probs.
        quality: how good a candidate is.
        how: resamples, confidence, seed.

    Raises:
        UserError: systems answered different prompts, or without a reference.
    """
    rows: list[list[Cell]] = []
    numbers, points = {}, []
    for name, results in same_prompts(systems).items():
        moved = mean_interval(np.array([_moved(name, one) for one in results]), how=how)
        good = mean_interval(qualities(results, quality), how=how)
        rows.append([name, good, moved])
        numbers[name] = {"quality": good, "kl": moved}
        points.append(Curve(name, [moved.value], [good]))
    head = ("system", "quality", "KL(π‖π_ref), nats per response")
    count = len(next(iter(systems.values())))
    table = Table("quality against KL", head, rows, f"{count} prompts; KL as the mean log-ratio of what was written")
    chart = Chart("quality against KL", "KL(π‖π_ref), nats per response", "quality", points)
    return Outcome("kl-frontier", numbers, [table], [chart])


def qualities(results: Sequence[SearchResult], quality: Quality) -> Floats:
    """Return [prompts] the quality of each best candidate, of all candidates for samples; 0 where nothing was found."""
    values = []
    for one in results:
        judged = one.candidates if one.method == "sample" else one.candidates[:1]
        values.append(float(np.mean([quality(one, candidate) for candidate in judged])) if judged else 0.0)
    return np.array(values)


def same_prompts(systems: Mapping[str, Sequence[SearchResult]]) -> Mapping[str, Sequence[SearchResult]]:
    """Return the systems.

    Raises:
        UserError: there is none, or two of them answered different prompts.
    """
    if not systems or not all(systems.values()):
        raise UserError("There are no results to judge.", "Write them with tokenq search --output.")
    first = next(iter(systems))
    for name, results in systems.items():
        theirs, ours = [one.id for one in results], [one.id for one in systems[first]]
        if theirs != ours:
            odd = next((a for a, b in zip(theirs, ours, strict=False) if a != b), f"{len(theirs)} of {len(ours)}")
            raise UserError(
                f"{name} and {first} answered different prompts (the first difference: {odd}).",
                "Search the same file of prompts.",
            )
    return systems


def _moved(name: str, result: SearchResult) -> float:
    ratios = []
    for candidate in result.candidates:
        if candidate.ref_logps is None:
            raise UserError(
                f"{name}, prompt {result.id}: there are no log-probs of the reference.", "Search with --reference."
            )
        ratios.append(sum(candidate.logps) - sum(candidate.ref_logps))
    return float(np.mean(ratios)) if ratios else 0.0
