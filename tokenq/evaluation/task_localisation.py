"""Where is it wrong? Every read-out of the same traces against labelled errors, with its baselines beside it."""

from collections.abc import Mapping, Sequence

from tokenq.errors import UserError
from tokenq.evaluation.localisation import ALL_TOKENS, Localisation, localise
from tokenq.evaluation.readouts import label
from tokenq.evaluation.step_scores import first_wrong
from tokenq.evaluation.task_preference import trace_cost
from tokenq.evaluation.token_labels import Bools, labels_from_step, labels_from_stretches
from tokenq.records.traces import TokenTrace
from tokenq.stats.bootstrap import PLAIN, Resampling
from tokenq.stats.outcome import Cell, ListedExample, Outcome, Table, numbers_first, titled, worst_first

Stretches = Sequence[tuple[int, int]]

METRICS = ("auroc", "average_precision", "top_1", "top_5", "pooled_auroc", "pooled_average_precision")


def localisation(
    traces: Sequence[TokenTrace],
    stretches: Mapping[str, Stretches],
    *,
    classes: Mapping[str, str] = ALL_TOKENS,
    against: str = "implicit_reward",
    how: Resampling = PLAIN,
) -> Outcome:
    """Return how well every read-out finds labelled errors.

    Args:
        traces: what was scored; the chosen response of a pair has no errors and is left out.
        stretches: wrong stretches of a response in characters, by the name of its row; rows that are not named have
            their labels from their steps (the first wrong one).
        classes: classes of tokens, as for `localise`.
        against: the read-out that all others are compared with.
        how: resamples, confidence, seed.

    Raises:
        UserError: nothing is labelled, or labels do not line up.
    """
    kept, labels, shown = [], [], []
    for trace in traces:
        name = trace.id.rpartition("/")[0] if trace.side else trace.id
        if trace.side == "chosen":
            continue
        where = stretches.get(name)
        labels.append(_labels(trace, where))
        kept.append(trace)
        shown.append(where if where is not None else _step_stretch(trace))
    if not kept:
        raise UserError("Nothing that was scored could hold an error.", "Give responses with labels of their errors.")
    found = localise(kept, labels, against=against, classes=classes, how=how)
    tables = [_table(one) for one in found]
    rows = {row.readout: row for row in found[0].rows}
    best = min(rows.values(), key=lambda row: numbers_first(-row.metrics["auroc"].value))
    examples = [
        ListedExample(
            trace.id,
            titled(trace.id, trace.prompt),
            {
                f"AUROC of {against}": rows[against].per_example["auroc"][place],
                f"AUROC of {best.readout}": best.per_example["auroc"][place],
            },
            shown[place],
        )
        for place, trace in enumerate(kept)
    ]
    ordered = worst_first(examples, f"AUROC of {against}")
    return Outcome("localisation", {"classes": found}, tables, (), ordered, trace_cost(kept))


def _labels(trace: TokenTrace, stretches: Stretches | None) -> Bools:
    if stretches is not None:
        return labels_from_stretches(trace, stretches)
    return labels_from_step(trace, _first(trace))


def _first(trace: TokenTrace) -> int | None:
    """Return the first wrong step of a trace, from the labels of its steps."""
    labels = trace.spans.of("step").columns["label"]
    if not len(labels) or labels.min() < 0:
        raise UserError(
            f"Trace {trace.id} has no labels.",
            "Mark errors with a column of stretches (--errors), or give steps with labels.",
        )
    return first_wrong(labels.tolist())


def _step_stretch(trace: TokenTrace) -> Stretches:
    first = _first(trace)
    return () if first is None else (trace.spans.of("step").stretch(first),)


def _table(found: Localisation) -> Table:
    metrics = [name for name in METRICS if name in found.chance]
    rows: list[list[Cell]] = [
        [label(row.readout), *(row.metrics[name] for name in metrics), row.differences["auroc"]]
        for row in sorted(found.rows, key=lambda row: numbers_first(-row.metrics["auroc"].value))
    ]
    rows.append(["chance", *(found.chance[name] for name in metrics), None])
    note = (
        f"{found.examples} examples, {found.wrong_tokens} of {found.tokens} tokens wrong; "
        f"{found.without_wrong} examples without a wrong token and {found.without_right} without a right one are left "
        "out of the per-example AUROC; intervals over examples, differences paired"
    )
    title = "all tokens" if not found.pattern else f"{found.token_class} only ({found.pattern})"
    return Table(title, ("read-out", *map(label, metrics), f"AUROC − {label(found.against)}"), rows, note)
