"""The task: densities by step, rewards by step, and accuracy, likelihood and length on pairs of one length."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tokenq.density.backends import Entities
from tokenq.density.measures import PUBLISHED, PUBLISHED_OTHERS
from tokenq.errors import UserError
from tokenq.evaluation.density.chains import Chain, Pairs, added_spans, pairs_of
from tokenq.evaluation.readouts import READOUTS
from tokenq.evaluation.task_preference import trace_cost
from tokenq.evaluation.token_labels import labels_from_stretches
from tokenq.records.traces import TokenTrace
from tokenq.stats.areas import example_metrics
from tokenq.stats.bootstrap import PLAIN, Estimate, Floats, Resampling, intervals, mean_interval, ratio
from tokenq.stats.outcome import Cell, Chart, Curve, ListedExample, Outcome, Table, worst_first

REWARDS: Mapping[str, Callable[[TokenTrace], float]] = {
    "implicit reward": lambda trace: trace.totals.given("implicit_reward"),
    "implicit reward a token": lambda trace: trace.totals.given("implicit_reward") / max(1, trace.totals.tokens),
    "likelihood": lambda trace: trace.totals.given("logp"),
    "reference likelihood": lambda trace: trace.totals.given("ref_logp"),
    "length": lambda trace: float(trace.totals.tokens),
}
"""What may prefer the denser of two summaries."""

CREDITS: Mapping[str, Callable[[TokenTrace], Floats]] = {
    "implicit reward": lambda trace: -READOUTS["implicit_reward"](trace),
    "centred advantage": lambda trace: -READOUTS["centred_advantage"](trace),
    "policy surprisal": READOUTS["policy_surprisal"],
    "reference surprisal": READOUTS["reference_surprisal"],
    "random": READOUTS["random"],
}
"""What may be larger at the tokens of an entity that a step adds."""


def density(
    chains: Sequence[Chain], entities: Entities, named: str, same_length: float, how: Resampling = PLAIN
) -> Outcome:
    """Return densities by step, and where models have read the chains, what their rewards go by.

    Args:
        chains: the chains.
        entities: finds entities.
        named: the name of what finds them, for the tables.
        same_length: the share by which a pair of steps may differ in length.
        how: resamples over chains, confidence, seed.

    Raises:
        UserError: there are none.
    """
    if not chains:
        raise UserError("There are no chains.", "Is the file empty?")
    steps, by_step = _steps(chains, named, how)
    read = [chain for chain in chains if chain.traces]
    if not read:
        return Outcome("density", {"entities": named, "by_step": by_step}, [steps])
    numbers: dict[str, Any] = {"entities": named, "by_step": by_step}
    rewards, numbers["dose"] = _dose(read, how)
    tables = [steps, rewards]
    for name, adjacent in (("all pairs of steps", False), ("steps that follow each other", True)):
        pairs = pairs_of(read, same_length, adjacent=adjacent)
        table, numbers["adjacent" if adjacent else "all"] = _accuracy(read, pairs, name, same_length, how)
        tables.append(table)
    credit, numbers["credit"] = _credit(read, entities, how)
    curve = numbers["dose"]["reward"]
    chart = Chart(
        "reward by step, within chains", "step", "implicit reward − mean of the chain",
        [Curve("implicit reward", [float(step) for step in range(1, len(curve) + 1)], curve)],
    )  # fmt: skip
    examples = [_example(chain) for chain in read]
    cost = trace_cost([trace for chain in read for trace in chain.traces])
    return Outcome("density", numbers, [*tables, credit], [chart], worst_first(examples, "last − first"), cost)


def _steps(chains: Sequence[Chain], named: str, how: Resampling) -> tuple[Table, dict[str, Any]]:
    """Return density, entities and tokens by step, the published densities beside them."""
    rows, numbers = list[list[Cell]](), dict[str, Any]()
    for place in range(max(len(chain.summaries) for chain in chains)):
        own = [chain.summaries[place] for chain in chains if place < len(chain.summaries)]
        found = {
            "density": _mean([one.density for one in own], how),
            "entities": _mean([len(one.entities) for one in own], how),
            "tokens": _mean([one.tokens for one in own], how),
            "dropped": _mean([len(one.dropped) for one in own], how),
        }
        numbers[str(place + 1)] = found
        rows.append([str(place + 1), len(own), *found.values(), PUBLISHED[place] if place < len(PUBLISHED) else None])
    others = ", ".join(f"{name} {value:.3f}" for name, value in PUBLISHED_OTHERS.items())
    note = f"{len(chains)} chains, entities by {named}; published: GPT-4 on news, entities by spaCy ({others})"
    head = ("step", "chains", "entities a token", "entities", "tokens", "entities dropped", "published")
    return Table("density by step", head, rows, note), numbers


def _dose(chains: Sequence[Chain], how: Resampling) -> tuple[Table, dict[str, Any]]:
    """Return rewards by step, each less the mean of its chain, and their slope on density within chains."""
    longest = max(len(chain.traces) for chain in chains)
    rewards = [chain.numbers(REWARDS["implicit reward"]) for chain in chains]
    likely = [chain.numbers(REWARDS["reference likelihood"]) for chain in chains]
    peaks = Counter(int(one.argmax()) for one in rewards)
    rows, reward = list[list[Cell]](), list[Estimate]()
    for place in range(longest):
        own = [number for number, one in enumerate(rewards) if place < len(one)]
        reward.append(_mean([rewards[n][place] - rewards[n].mean() for n in own], how))
        density = _mean([chains[n].summaries[place].density for n in own], how)
        reference = _mean([likely[n][place] - likely[n].mean() for n in own], how)
        rows.append([str(place + 1), density, reward[-1], reference, peaks[place] / len(chains)])
    densities = [np.array([one.density for one in chain.summaries]) for chain in chains]
    slope = _slope(densities, rewards, how)
    note = f"rewards less the mean of their chain; their slope on entities a token, within chains: {_shown(slope)}"
    head = ("step", "entities a token", "implicit reward", "reference log-likelihood", "chains that peak here")
    numbers = {"reward": reward, "slope": slope, "peaks": [peaks[place] for place in range(longest)]}
    return Table("reward by step", head, rows, note), numbers


def _slope(x: Sequence[Floats], y: Sequence[Floats], how: Resampling) -> Estimate:
    """Return Σ dx dy / Σ dx², d the difference to the mean of a chain; chains are drawn anew."""
    across = np.array([((one - one.mean()) * (other - other.mean())).sum() for one, other in zip(x, y, strict=True)])
    along = np.array([((one - one.mean()) ** 2).sum() for one in x])
    return intervals(lambda counts: ratio(counts @ across, counts @ along), len(x), how)[0]


def _accuracy(
    chains: Sequence[Chain], pairs: Pairs, name: str, same_length: float, how: Resampling
) -> tuple[Table, dict[str, Any]]:
    """Return how often each number is larger for the denser of two summaries of one length; ties are a half."""
    groups = [chains[number].name for number, *_ in pairs.places]
    rows = list[list[Cell]]()
    numbers: dict[str, Any] = {"pairs": len(pairs.places), "lengths that differ": pairs.apart}
    for way, of in REWARDS.items():
        values = [chain.numbers(of) for chain in chains]
        right = [_larger(values[number][second], values[number][first]) for number, first, second in pairs.places]
        accuracy = mean_interval(np.array(right), groups, how) if right else None
        rows.append([way, accuracy])
        numbers[way] = accuracy
    note = (
        f"{len(pairs.places)} pairs whose lengths differ by {same_length:.0%} at most, {pairs.apart} others left out; "
        "ties are a half; intervals over chains"
    )
    return Table(f"the denser of two is preferred: {name}", ("by", "accuracy"), rows, note), numbers


def _larger(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)


def _credit(chains: Sequence[Chain], entities: Entities, how: Resampling) -> tuple[Table, dict[str, Estimate]]:
    """Return how well credit tells the tokens of entities that a step adds from its other tokens, within summaries."""
    areas: dict[str, list[float]] = {name: [] for name in CREDITS}
    groups, tokens = list[str](), 0
    for chain in chains:
        for before, trace in zip(chain.traces, chain.traces[1:], strict=False):
            spans = added_spans(trace.response, before.response, entities)
            added = labels_from_stretches(trace, spans)
            if not added.any() or added.all():
                continue
            scores = np.stack([of(trace) for of in CREDITS.values()], 1)
            found = example_metrics(scores, added, (1,))["auroc"]
            for name, area in zip(CREDITS, found, strict=True):
                areas[name].append(float(area))
            groups.append(chain.name)
            tokens += int(added.sum())
    numbers = {name: mean_interval(np.array(own), groups, how) for name, own in areas.items() if own}
    rows: list[list[Cell]] = [[name, area] for name, area in numbers.items()]
    note = f"{len(groups)} summaries, {tokens} tokens of added entities; AUROC within summaries; intervals over chains"
    return Table("credit of added entities", ("larger at them", "AUROC"), rows, note), numbers


def _example(chain: Chain) -> ListedExample:
    rewards = chain.numbers(REWARDS["implicit reward"])
    first, last = chain.summaries[0], chain.summaries[-1]
    numbers: dict[str, float | str | None] = {
        "last − first": float(rewards[-1] - rewards[0]),
        "peak": str(int(rewards.argmax()) + 1),
        "density, first": first.density,
        "density, last": last.density,
    }
    return ListedExample(chain.traces[-1].id, chain.name, numbers)


def _mean(values: Sequence[float], how: Resampling) -> Estimate:
    return mean_interval(np.array(values, dtype=np.float64), None, how)


def _shown(one: Estimate) -> str:
    return f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}]"
