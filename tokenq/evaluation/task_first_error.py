"""Which step is the first wrong one? ProcessBench's accuracies for read-outs, step scores and decision rules.

Thresholds are chosen on other prompts than those they are told on (cross-validation), and what is reached without
looking at any step stands beside them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokenq.errors import UserError, unknown_name
from tokenq.evaluation.first_error import (
    REPEATS,
    FirstError,
    Solution,
    baselines,
    check_solutions,
    labels_of,
    padded_scores,
    summaries,
    units_of,
)
from tokenq.evaluation.readouts import label, readouts_of
from tokenq.evaluation.step_scores import STEP_SCORES, first_wrong, step_bounds
from tokenq.evaluation.task_preference import trace_cost
from tokenq.evaluation.thresholds import RULES, Splits, held_out_hits
from tokenq.records.traces import TokenTrace
from tokenq.stats.bootstrap import PLAIN, Floats, Resampling
from tokenq.stats.outcome import Cell, ListedExample, Outcome, Table, numbers_first, titled, worst_first

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


@dataclass(frozen=True, eq=False)
class ReadSolution:
    """What is kept of a solution once its tokens have been read.

    Attributes:
        id: name of its trace.
        prompt: its prompt.
        label: its first wrong step, None where there is none.
        stretch: that step, in characters.
        tokens: how many the policy wrote.
        models: how many models have read them.
        scores: (read-out, step score) → [S] score of each step.
    """

    id: str
    prompt: str
    label: int | None
    stretch: Sequence[tuple[int, int]]
    tokens: int
    models: int
    scores: Mapping[tuple[str, str], Floats]


def first_error(
    traces: Iterable[TokenTrace],
    *,
    readouts: Sequence[str] = (),
    conventions: Sequence[str] = ("sum", "cumulative", "min", "mean"),
    folds: int = 5,
    how: Resampling = PLAIN,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Return how often each read-out, step score and rule names the first wrong step.

    Args:
        traces: solutions with labelled steps; each is read once, and not kept.
        readouts: keys of `readouts_of(traces)`. Default: `USUAL`.
        conventions: keys of `STEP_SCORES`.
        folds: parts of the prompts; thresholds are chosen on the others.
        how: resamples, confidence, seed.
        progress: told (ways judged, ways in all) before each.

    Raises:
        UserError: an unknown name, or steps without labels.
    """
    for name in conventions:
        if name not in STEP_SCORES:
            raise unknown_name("step score", name, STEP_SCORES)
    read = [_read(trace, readouts, conventions) for trace in traces]
    asked = [key for key in (read[0].scores if read else ()) if all(key in one.scores for one in read)]
    results = _judged(read, asked, folds, how, progress)
    names = list(dict.fromkeys(readout for readout, _ in asked))
    trivial = baselines([_solution(one, asked[0]) for one in read], how)
    best = {
        readout: min((key for key in results if key[0] == readout), key=lambda key: numbers_first(-_goal(results[key])))
        for readout in names
    }
    tables = [
        _table("the best step score and rule of each read-out", [(key, results[key]) for key in best.values()]),
        _table("without looking", [((name, "", ""), one) for name, one in trivial.items()]),
        _table("everything", list(results.items())),
    ]
    examples = [
        ListedExample(
            one.id, titled(one.id, one.prompt), {"found": float(hit), "first wrong step": _said(one.label)}, one.stretch
        )
        for one, hit in zip(read, results[best[names[0]]].hits, strict=True)
    ]
    numbers = {
        "results": [{"readout": a, "step_score": b, "rule": c, **_numbers(one)} for (a, b, c), one in results.items()],
        "baselines": {name: _numbers(one) for name, one in trivial.items()},
        "examples": len(read),
        "erroneous": sum(one.label is not None for one in read),
    }
    cost = {"response_tokens": float(sum(one.tokens for one in read)), "models": float(max(one.models for one in read))}
    return Outcome("first-error", numbers, tables, (), worst_first(examples, "found"), cost)


def _read(trace: TokenTrace, readouts: Sequence[str], conventions: Sequence[str]) -> ReadSolution:
    known = readouts_of([trace])
    for name in readouts:
        if name not in known:
            raise unknown_name("read-out of these traces", name, known)
    label, bounds = _label(trace), step_bounds(trace)
    scores: dict[tuple[str, str], Floats] = {}
    for name in readouts or [name for name in USUAL if name in known]:
        credits = -known[name](trace)
        scores |= {(name, convention): STEP_SCORES[convention](credits, bounds) for convention in conventions}
    stretch = _stretch(trace, label)
    return ReadSolution(
        trace.id, trace.prompt, label, stretch, trace.totals.tokens, int(trace_cost([trace])["models"]), scores
    )


def _solution(one: ReadSolution, key: tuple[str, str]) -> Solution:
    return Solution(one.id, one.scores[key], one.label, one.prompt)


def _judged(
    read: Sequence[ReadSolution],
    asked: Sequence[tuple[str, str]],
    folds: int,
    how: Resampling,
    progress: Callable[[int, int], None],
) -> dict[tuple[str, str, str], FirstError]:
    """Return every read-out and step score under every rule, all from the same splits and the same resamples."""
    if not read:
        raise UserError("There are no solutions to judge.", "Is the file empty?")
    if not asked:
        raise UserError("The traces have no read-out in common.", "Score all rows with the same models.")
    ways: list[tuple[str, str, str]] = []
    columns, chosen = [], []
    for readout, convention in asked:
        solutions = [_solution(one, (readout, convention)) for one in read]
        check_solutions(solutions)
        table, labels = padded_scores(solutions), labels_of(solutions)
        splits = Splits.drawn(*units_of(solutions), folds, REPEATS, how.seed)
        for name, rule in RULES.items():
            progress(len(ways), len(asked) * len(RULES))
            hits, thresholds = held_out_hits(table, labels, rule, splits)
            ways.append((readout, convention, name))
            columns.append(hits)
            chosen.append(thresholds)
    return dict(zip(ways, summaries(solutions, np.stack(columns, axis=1), chosen, how), strict=True))


def _label(trace: TokenTrace) -> int | None:
    labels = trace.spans.of("step").columns["label"]
    if not len(labels) or labels.min() < 0:
        raise UserError(
            f"Trace {trace.id} has no labelled steps.",
            "Give rows with steps and the first wrong one of them; traces of tokenq score need --levels step.",
        )
    return first_wrong(labels.tolist())


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
        [*map(label, key), one.erroneous, one.correct, one.f1, one.accuracy]
        for key, one in sorted(rows, key=lambda row: numbers_first(-_goal(row[1])))
    ]
    head = ("read-out", "step score", "rule", "on erroneous", "on correct", "F1", "accuracy")
    return Table(
        title, head, cells, "thresholds chosen on other prompts; the first table chooses the best after the fact"
    )


def _said(label: int | None) -> str:
    return "none" if label is None else str(label + 1)


def _stretch(trace: TokenTrace, label: int | None) -> Sequence[tuple[int, int]]:
    return () if label is None else (trace.spans.of("step").stretch(label),)
