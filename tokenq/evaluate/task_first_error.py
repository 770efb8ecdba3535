"""Which step is the first wrong one? ProcessBench's accuracies for read-outs, step scores and decision rules.

Thresholds are chosen on other prompts than those they are told on (cross-validation), and what is reached without
looking at any step stands beside them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tokenq.core.stats import numbers_first
from tokenq.errors import UserError, unknown_name
from tokenq.evaluate.bootstrap import PLAIN, Resampling
from tokenq.evaluate.first_error import FirstError, Solution, baselines, cross_validated
from tokenq.evaluate.outcome import Cell, Example, Outcome, Table, worst_first
from tokenq.evaluate.readouts import readouts_of
from tokenq.evaluate.step_rules import RULES
from tokenq.evaluate.step_scores import STEP_SCORES, first_wrong, step_scores
from tokenq.evaluate.task_preference import trace_cost
from tokenq.traces import TokenTrace

USUAL = (
    "implicit_reward",
    "centred_advantage",
    "policy_surprisal",
    "reference_surprisal",
    "centred_reference_surprisal",
    "implicit_reward_minus_policy_mean",
    "reward_model",
    "random",
)
"""Read-outs that are compared where nothing else is asked for, as far as the traces have them."""


def first_error(
    traces: Sequence[TokenTrace],
    *,
    readouts: Sequence[str] = (),
    conventions: Sequence[str] = ("sum", "cumulative", "min", "mean"),
    folds: int = 5,
    how: Resampling = PLAIN,
) -> Outcome:
    """Return how often each read-out, step score and rule names the first wrong step.

    Args:
        traces: solutions with labelled steps.
        readouts: keys of `readouts_of(traces)`. Default: `USUAL`.
        conventions: keys of `STEP_SCORES`.
        folds: parts of the prompts; thresholds are chosen on the others.
        how: resamples, confidence, seed.

    Raises:
        UserError: an unknown name, or steps without labels.
    """
    known = readouts_of(traces)
    readouts = readouts or [name for name in USUAL if name in known]
    for name in readouts:
        if name not in known:
            raise unknown_name("read-out of these traces", name, known)
    for name in conventions:
        if name not in STEP_SCORES:
            raise unknown_name("step score", name, STEP_SCORES)
    labels = [_label(trace) for trace in traces]
    results: dict[tuple[str, str, str], FirstError] = {}
    for readout in readouts:
        credits = [-known[readout](trace) for trace in traces]
        for convention in conventions:
            solutions = [
                Solution(trace.id, step_scores(trace, credit, convention, None), label, trace.prompt)
                for trace, credit, label in zip(traces, credits, labels, strict=True)
            ]
            for rule, made in RULES.items():
                results[readout, convention, rule] = cross_validated(solutions, made, folds, how=how)
    trivial = baselines(solutions, how)
    best = {
        readout: min((key for key in results if key[0] == readout), key=lambda key: numbers_first(-_goal(results[key])))
        for readout in readouts
    }
    tables = [
        _table("the best step score and rule of each read-out", [(key, results[key]) for key in best.values()]),
        _table("without looking", [((name, "", ""), one) for name, one in trivial.items()]),
        _table("everything", list(results.items())),
    ]
    first = best[readouts[0]]
    examples = [
        Example(trace.id, trace.id, {"found": float(hit), "first wrong step": _said(label)}, _stretch(trace, label))
        for trace, label, hit in zip(traces, labels, results[first].hits, strict=True)
    ]
    numbers = {
        "results": [{"readout": a, "step_score": b, "rule": c, **_numbers(one)} for (a, b, c), one in results.items()],
        "baselines": {name: _numbers(one) for name, one in trivial.items()},
        "examples": len(traces),
        "erroneous": sum(label is not None for label in labels),
    }
    ordered = worst_first(examples, "found")
    return Outcome("first-error", numbers, tables, (), ordered, trace_cost(traces))


def _label(trace: TokenTrace) -> int | None:
    steps = [span.label for span in trace.spans if span.level == "step"]
    if not steps or any(label is None for label in steps):
        raise UserError(
            f"Trace {trace.id} has no labelled steps.",
            "Give rows with steps and the first wrong one of them; traces of tokenq score need --levels step.",
        )
    return first_wrong([bool(label) for label in steps])


def _goal(one: FirstError) -> float:
    return one.accuracy.value if np.isnan(one.f1.value) else one.f1.value


def _numbers(one: FirstError) -> Mapping[str, object]:
    return {
        "erroneous": one.erroneous,
        "correct": one.correct,
        "f1": one.f1,
        "accuracy": one.accuracy,
        "thresholds": one.thresholds,
    }


def _table(title: str, rows: Sequence[tuple[tuple[str, str, str], FirstError]]) -> Table:
    cells: list[list[Cell]] = [
        [*key, one.erroneous, one.correct, one.f1, one.accuracy]
        for key, one in sorted(rows, key=lambda row: numbers_first(-_goal(row[1])))
    ]
    head = ("read-out", "step score", "rule", "on erroneous", "on correct", "F1", "accuracy")
    return Table(
        title, head, cells, "thresholds chosen on other prompts; the first table chooses the best after the fact"
    )


def _said(label: int | None) -> str:
    return "none" if label is None else str(label + 1)


def _stretch(trace: TokenTrace, label: int | None) -> Sequence[tuple[int, int]]:
    steps = [span for span in trace.spans if span.level == "step"]
    return () if label is None else ((steps[label].start, steps[label].end),)
