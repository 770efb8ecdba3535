"""Does a read-out find the wrong tokens? Token labels against token scores, per example and pooled, side by side.

Per example: how well one response's own tokens are ordered, which needs no common scale across prompts. Pooled: one
ranking of all tokens, which does. A score that only tells where errors *may* stand (every number, say) looks good on
all tokens and bad among the tokens of that class, so the same table is made for classes of tokens too. No read-out is
chosen here and no threshold; labels come from the data (`tokenq.evaluation.token_labels`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from tokenq.errors import UserError, unknown_name
from tokenq.evaluation.readouts import READOUTS, Suspicion
from tokenq.evaluation.token_labels import Bools
from tokenq.patterns import read_pattern
from tokenq.records.traces import TokenTrace
from tokenq.stats.areas import example_metrics, pooled_areas
from tokenq.stats.bootstrap import (
    PLAIN,
    Estimate,
    Floats,
    Resampling,
    Statistic,
    intervals,
    mean_interval,
    mean_of,
    unit_numbers,
)

ALL_TOKENS: Mapping[str, str] = {"all": ""}
POOLED = ("pooled_auroc", "pooled_average_precision")


@dataclass(frozen=True)
class ReadoutRow:
    """How well one read-out finds the wrong tokens.

    Attributes:
        readout: its name.
        metrics: means over examples `auroc`, `average_precision`, `top_1` …, and `pooled_auroc`,
            `pooled_average_precision` over all tokens together.
        differences: each metric minus that of the read-out compared against, paired.
        per_example: the values behind the means, one for each example; NaN where undefined.
    """

    readout: str
    metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    per_example: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Localisation:
    """All read-outs on the tokens of one class.

    Attributes:
        token_class: its name.
        pattern: the expression that a token's text holds, "" for all tokens.
        examples: how many there are.
        without_wrong: examples without a wrong token: they count in pooled numbers only.
        without_right: examples whose every token is wrong: they have no AUROC of their own.
        tokens: tokens in all.
        wrong_tokens: the wrong ones among them.
        against: the read-out that differences are taken from.
        chance: each metric of a score that is the same everywhere (ties broken at random).
        rows: the read-outs.
    """

    token_class: str
    pattern: str
    examples: int
    without_wrong: int
    without_right: int
    tokens: int
    wrong_tokens: int
    against: str
    chance: Mapping[str, float]
    rows: tuple[ReadoutRow, ...]


class Scored(NamedTuple):
    """What is judged of one example, its tokens of a class or its turns: scores [T, M] of M read-outs, and labels [T].

    Attributes:
        scores: larger = more suspicious.
        wrong: whether each is wrong.
    """

    scores: Floats
    wrong: Bools


class Metrics(NamedTuple):
    """Metrics of one example.

    Attributes:
        names: all of them.
        of: (scores [T, M], wrong [T]) → each [M] by its name; those that are undefined are not there.
    """

    names: tuple[str, ...]
    of: Callable[[Floats, Bools], dict[str, Floats]]


def token_metrics(tops: Sequence[int]) -> Metrics:
    """Return the metrics of `example_metrics`."""
    names = ("auroc", "average_precision", *(f"top_{k}" for k in tops))
    return Metrics(names, partial(example_metrics, tops=tops))


def localise(
    traces: Sequence[TokenTrace],
    labels: Sequence[Bools],
    readouts: Mapping[str, Suspicion] = READOUTS,
    *,
    against: str = "implicit_reward",
    classes: Mapping[str, str] = ALL_TOKENS,
    tops: Sequence[int] = (1, 5),
    groups: Sequence[object] | None = None,
    how: Resampling = PLAIN,
) -> tuple[Localisation, ...]:
    r"""Return, for every class of tokens, how well each read-out finds the wrong ones.

    Args:
        traces: one for each example.
        labels: [W] for each example: whether the written token is wrong.
        readouts: what to compare, by name.
        against: the read-out that all others are compared with.
        classes: name → expression that a token's text must hold: {"numbers": r"\d"}; "" for all tokens.
        tops: top-k hits to report.
        groups: which examples belong together (a prompt's name), None: every example is a unit of its own.
        how: resamples, confidence, seed.

    Raises:
        UserError: there is nothing to compare, labels do not line up with tokens, or a trace lacks a number.
    """
    if against not in readouts:
        raise unknown_name("read-out", against, readouts)
    if not traces or len(labels) != len(traces):
        raise UserError(f"{len(traces)} traces and {len(labels)} labels do not line up.", "Label every trace.")
    for trace, wrong in zip(traces, labels, strict=True):
        count = int(trace.tokens.written.sum())
        if len(wrong) != count:
            raise UserError(
                f"Trace {trace.id}: {len(wrong)} labels for the {count} tokens that the policy wrote.",
                "There is one label for each token written.",
            )
    scores = [np.stack([readout(trace) for readout in readouts.values()], 1) for trace in traces]
    tables = []
    for name, pattern in classes.items():
        masks = [_in_class(trace, pattern) for trace in traces]
        parts = [Scored(s[m], np.asarray(w)[m]) for s, w, m in zip(scores, labels, masks, strict=True)]
        tables.append(compared((name, pattern), parts, (tuple(readouts), against), token_metrics(tops), groups, how))
    return tuple(tables)


def _in_class(trace: TokenTrace, pattern: str) -> Bools:
    expression = read_pattern(pattern)
    found: Bools = np.array(list(map(expression.found_in, trace.tokens.texts())), dtype=np.bool_)
    return found[trace.tokens.written]


def compared(
    token_class: tuple[str, str],
    parts: Sequence[Scored],
    names: tuple[tuple[str, ...], str],
    metrics: Metrics,
    groups: Sequence[object] | None = None,
    how: Resampling = PLAIN,
) -> Localisation:
    """Return how well every read-out finds what is wrong in each part.

    Args:
        token_class: name and expression of what the parts hold.
        parts: one for each example.
        names: of the read-outs, and of the one that all others are compared with.
        metrics: of one example.
        groups: which examples belong together, None: every example is a unit of its own.
        how: resamples, confidence, seed.
    """
    readouts, against = names
    base, columns = readouts.index(against), len(readouts) + 1
    # One more column, the same everywhere: what chance does.
    parts = [Scored(np.column_stack((part.scores, np.zeros(len(part.wrong)))), part.wrong) for part in parts]
    values = {metric: np.full((len(parts), columns), np.nan) for metric in metrics.names}
    for number, part in enumerate(parts):
        for metric, found in metrics.of(part.scores, part.wrong).items():
            values[metric][number] = found
    estimates = {metric: _means(table, base, groups, how) for metric, table in values.items()}
    estimates |= dict(zip(POOLED, _pooled(parts, base, groups, how), strict=True))
    wrong = [int(part.wrong.sum()) for part in parts]
    sizes = [len(part.wrong) for part in parts]
    return Localisation(
        token_class=token_class[0],
        pattern=token_class[1],
        examples=len(parts),
        without_wrong=wrong.count(0),
        without_right=sum(some == size for some, size in zip(wrong, sizes, strict=True) if size),
        tokens=sum(sizes),
        wrong_tokens=sum(wrong),
        against=against,
        chance={metric: found[columns - 1].value for metric, found in estimates.items()},
        rows=tuple(
            ReadoutRow(
                readout=name,
                metrics={metric: found[number] for metric, found in estimates.items()},
                differences={metric: found[columns + number] for metric, found in estimates.items()},
                per_example={metric: tuple(map(float, table[:, number])) for metric, table in values.items()},
            )
            for number, name in enumerate(readouts)
        ),
    )


def _means(table: Floats, base: int, groups: Sequence[object] | None, how: Resampling) -> list[Estimate]:
    """Return the mean of each column over the examples where it is defined, then the same of differences."""
    kept = ~np.isnan(table[:, 0])
    names = None if groups is None else [group for group, keep in zip(groups, kept, strict=True) if keep]
    statistic, n = mean_of(table[kept], names)
    found = intervals(_differences_too(statistic, base), n, how)
    shares = [groups is None and n > 0 and set(np.unique(column)) <= {0.0, 1.0} for column in table[kept].T]
    means = [mean_interval(table[kept, i], None, how) if share else found[i] for i, share in enumerate(shares)]
    return means + found[table.shape[1] :]


def _pooled(
    parts: Sequence[Scored], base: int, groups: Sequence[object] | None, how: Resampling
) -> tuple[list[Estimate], list[Estimate]]:
    """Return AUROC and average precision of all tokens together: each column's, then the differences'."""
    owner, n = unit_numbers(groups, len(parts))
    owners = np.repeat(owner, [len(part.wrong) for part in parts])
    wrong = np.concatenate([part.wrong for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    each = [pooled_areas(column, wrong, owners, n) for column in scores.T]

    def both(counts: Floats) -> Floats:
        areas = np.stack([statistic(counts) for statistic in each])
        return np.concatenate([_beside(areas[:, :, which].T, base) for which in (0, 1)], axis=1)

    found = intervals(both, n, how)
    return found[: len(found) // 2], found[len(found) // 2 :]


def _differences_too(statistic: Statistic, base: int) -> Statistic:
    return lambda counts: _beside(statistic(counts), base)


def _beside(values: Floats, base: int) -> Floats:
    """Return the columns, and beside them each column minus the base."""
    return np.concatenate((values, values - values[:, [base]]), axis=1)
