"""Does a policy, or a reward model, prefer what people preferred? Accuracy on pairs, by RewardBench's conventions.

A pair is right when its chosen response has the higher reward; a tie is wrong. The implicit reward is the number that
DPO trains; likelihoods without a reference are its baselines, and so is length. RewardBench calls some of them by
other names: "reference-free, summed" is the likelihood here, "reference-free, averaged" the mean likelihood.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tokenq.errors import UserError
from tokenq.evaluation.readouts import label
from tokenq.records.traces import TokenTrace
from tokenq.stats.bootstrap import PLAIN, Resampling, difference_interval
from tokenq.stats.margins import Calibration, LengthBias, calibration, length_bias
from tokenq.stats.outcome import Cell, Chart, Curve, ListedExample, Outcome, Table, titled, worst_first
from tokenq.stats.rewardbench import Pair, RewardBench, score_pairs

Reward = Callable[[TokenTrace], float]

REWARDS: Mapping[str, Reward] = {
    "implicit_reward": lambda trace: trace.totals.given("implicit_reward"),
    "mean_implicit_reward": lambda trace: trace.totals.given("implicit_reward") / trace.totals.tokens,
    "likelihood": lambda trace: trace.totals.given("logp"),
    "mean_likelihood": lambda trace: trace.totals.given("logp") / trace.totals.tokens,
    "reference_likelihood": lambda trace: trace.totals.given("ref_logp"),
}
"""Rewards by a policy and its reference, by name."""


def rewards_of(traces: Sequence[TokenTrace]) -> dict[str, Reward]:
    """Return the rewards that some traces hold: the first is the one in question, the others what it is measured by.

    That is the implicit reward where a policy has read them, else what a reward model says.
    """
    found: dict[str, Reward] = dict(REWARDS) if any(trace.policy for trace in traces) else {}
    if all(trace.totals.reward is not None for trace in traces):
        found["reward_model"] = lambda trace: float(trace.totals.reward or 0.0)
    found = found or dict(REWARDS)
    return {**found, "length": lambda trace: float(trace.totals.tokens)}


def preference(
    traces: Sequence[TokenTrace], subsets: Mapping[str, str] | None = None, how: Resampling = PLAIN
) -> Outcome:
    """Return how often each reward prefers the chosen response, and every right one to every wrong one.

    Args:
        traces: of both responses of every pair, or of right and wrong responses to every prompt (RewardBench 2).
        subsets: the subset of a pair, by the name of its row; None where the data has none.
        how: resamples, confidence, seed.

    Raises:
        UserError: there is no pair.
    """
    answers = as_answers(traces)
    names = [one.name for one in answers]
    asked = rewards_of(traces)
    first = next(iter(asked))
    rewards = {
        name: np.array([[min(map(reward, one.right)), max(map(reward, one.wrong))] for one in answers])
        for name, reward in asked.items()
    }
    nearest = [(min(one.right, key=asked[first]), max(one.wrong, key=asked[first])) for one in answers]
    scored = {
        name: score_pairs(
            [Pair((subsets or {}).get(row, "all"), a, b, row) for row, (a, b) in zip(names, values, strict=True)],
            how=how,
        )
        for name, values in rewards.items()
    }
    own = rewards[first]
    right = {name: (values[:, 0] > values[:, 1]).astype(float) for name, values in rewards.items()}
    gains = {name: difference_interval(right[first], hits, how=how) for name, hits in right.items()}
    margins, lengths = own[:, 0] - own[:, 1], np.array([[asked["length"](side) for side in pair] for pair in nearest])
    calibrated, bias = calibration(margins, how=how), length_bias(own, lengths, how)
    table = Table(
        "how often the chosen response has the higher reward",
        ("reward", "accuracy", f"{label(first)} − this", "ties"),
        [(label(name), one.accuracy, None if name == first else gains[name], one.ties) for name, one in scored.items()],
        f"{_counted(answers)}; ties count as wrong; differences are paired",
    )
    tables = [table, *_subset_tables(scored[first]), _margin_table(calibrated, bias)]
    examples = [
        ListedExample(
            right.id, titled(name, right.prompt), {"margin": float(margin), "tokens": f"{int(a)} and {int(b)}"}
        )
        for name, margin, (a, b), (right, _) in zip(names, margins, lengths, nearest, strict=True)
    ]
    numbers = {
        "rewards": {name: {"rewardbench": one, "gain": gains[name]} for name, one in scored.items()},
        "calibration": calibrated,
        "length": bias,
        "margin": {"mean": float(margins.mean()), "median": float(np.median(margins))},
    }
    charts = [_accuracy_chart(scored), _calibration_chart(calibrated)]
    return Outcome("preference", numbers, tables, charts, worst_first(examples, "margin"), trace_cost(traces))


def _margin_table(calibrated: Calibration, bias: LengthBias) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("expected calibration error of σ(margin)", calibrated.error),
        ("log-loss of σ(margin), chance 0.693", calibrated.log_loss),
        ("margin and length difference, Spearman", bias.margin_spearman),
        ("reward and length, Spearman", bias.spearman),
        ("the longer response has the higher reward", bias.prefers_longer),
        ("the chosen response is the longer one", bias.longer_wins),
    ]
    return Table("margins", ("number", "value"), rows)


def _accuracy_chart(scored: Mapping[str, RewardBench]) -> Chart:
    accuracies = [one.accuracy for one in scored.values()]
    curve = Curve("with 95 % interval", [float(place) for place in range(len(accuracies))], accuracies)
    title = "how often the chosen response has the higher reward"
    return Chart(title, "reward", "accuracy", [curve], labels=list(map(label, scored)))


def _calibration_chart(calibrated: Calibration) -> Chart:
    full = [one for one in calibrated.bins if one.n]
    curves = [
        Curve("pairs", [one.confidence for one in full], [one.accuracy for one in full]),
        Curve("calibrated", [0.5, 1.0], [0.5, 1.0]),
    ]
    return Chart("is σ(|margin|) a probability?", "confidence in the preferred response", "share that is right", curves)


class Answers(NamedTuple):
    """The right and the wrong responses to a prompt; one of each in a pair."""

    name: str
    right: list[TokenTrace]
    wrong: list[TokenTrace]


def as_answers(traces: Sequence[TokenTrace]) -> list[Answers]:
    """Return the right and the wrong responses of every row that has both: sides of a pair, or labelled ones.

    Raises:
        UserError: no row has both, or a pair has a single side.
    """
    rows: dict[str, Answers] = {}
    for trace in traces:
        name, _, which = trace.id.rpartition("/")
        good = trace.label if trace.side is None else trace.side == "chosen"
        # A response that is alone in its row has the name of the row, which may be a path.
        if good is not None and (trace.side is not None or which.isdecimal()):
            row = rows.setdefault(name, Answers(name, [], []))
            (row.right if good else row.wrong).append(trace)
    both = [row for row in rows.values() if row.right and row.wrong]
    if (len(both) < len(rows) and any(trace.side is not None for trace in traces)) or not both:
        as_pairs(traces)  # which says what is missing
    return both


def _counted(answers: Sequence[Answers]) -> str:
    responses = sum(len(one.right) + len(one.wrong) for one in answers)
    if responses == 2 * len(answers):
        return f"{len(answers)} pairs"
    return f"{len(answers)} prompts with {responses} responses; right is every right one above every wrong one"


def as_pairs(traces: Sequence[TokenTrace]) -> list[tuple[str, TokenTrace, TokenTrace]]:
    """Return (name of the row, chosen, rejected) of every pair.

    Raises:
        UserError: there is none, or one has a single side.
    """
    sides: dict[str, dict[str, TokenTrace]] = {}
    for trace in traces:
        if trace.side is not None:
            sides.setdefault(trace.id.rpartition("/")[0], {})[trace.side] = trace
    lonely = [name for name, both in sides.items() if len(both) < 2]
    if lonely:
        raise UserError(f"{lonely[0]} has one response of its pair only.", "Score whole pairs.")
    if not sides:
        raise UserError("There is no pair among what was scored.", "Give data with chosen and rejected responses.")
    return [(name, both["chosen"], both["rejected"]) for name, both in sides.items()]


def trace_cost(traces: Sequence[TokenTrace]) -> dict[str, float]:
    """Return the least cost of scoring: the responses' tokens, through each of the models."""
    models = 2 * any(trace.policy for trace in traces) + any(trace.reward_model for trace in traces)
    return {"response_tokens": float(sum(trace.totals.tokens for trace in traces)), "models": float(models)}


def _subset_tables(bench: RewardBench) -> list[Table]:
    if len(bench.subsets) < 2:
        return []
    tables = [
        Table("by subset", ("subset", "accuracy"), [(name, one) for name, one in bench.subsets.items()]),
    ]
    if bench.sections:
        rows = [*bench.sections.items(), ("prior sets", bench.prior_sets), ("score", bench.score)]
        note = f"not comparable: {len(bench.missing)} subsets are missing" if bench.missing else ""
        tables.append(Table("RewardBench, version 1", ("section", "accuracy"), [row for row in rows if row[1]], note))
    return tables
