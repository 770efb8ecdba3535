"""Which turn of an episode is the mistake? Read-outs summed over turns against labelled turns, baselines beside them.

A turn is a step of a trace, with a label: whether its action was one of the best that could be done. An episode whose
past was written anew is several traces, one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from tokenq.errors import UserError, unknown_name
from tokenq.evaluation.localisation import Localisation, Metrics, Scored, compared
from tokenq.evaluation.readouts import BLIND, label, readouts_of
from tokenq.evaluation.step_scores import STEP_SCORES, first_wrong, step_bounds
from tokenq.evaluation.task_preference import trace_cost
from tokenq.evaluation.token_labels import Bools
from tokenq.records.traces import TokenTrace
from tokenq.stats.areas import example_metrics
from tokenq.stats.bootstrap import PLAIN, Floats, Resampling
from tokenq.stats.outcome import Cell, ListedExample, Outcome, Table, numbers_first, titled, worst_first

USUAL = (
    "implicit_reward",
    "implicit_reward_minus_policy_mean",
    "implicit_reward_minus_reference_mean",
    "centred_advantage",
    "policy_surprisal",
    "reference_surprisal",
    "centred_reference_surprisal",
    "entropy",
    "position",
    "random",
)
"""Read-outs that are compared where nothing else is asked for."""

GOES_ON = ", from turn "
"""Between the name of an episode and the first turn of a trace that does not begin with the first turn."""


@dataclass(frozen=True, eq=False)
class ReadEpisode:
    """What is kept of an episode once its tokens have been read.

    Attributes:
        id: name of its first trace.
        prompt: what it began with.
        wrong: [T] whether each turn is a mistake.
        scores: (read-out, turn score) → [T] suspicion of each turn.
        stretch: the first wrong turn in characters, where it is in the first trace.
    """

    id: str
    prompt: str
    wrong: Bools
    scores: Mapping[tuple[str, str], Floats]
    stretch: Sequence[tuple[int, int]]


def turns(
    traces: Iterable[TokenTrace],
    *,
    readouts: Sequence[str] = (),
    conventions: Sequence[str] = ("sum",),
    against: str = "implicit_reward",
    how: Resampling = PLAIN,
) -> Outcome:
    """Return how well each read-out tells wrong turns, and names the first of them.

    Args:
        traces: of episodes, the turns labelled steps; those of one episode one after the other. Each is read once, and
            not kept.
        readouts: keys of `READOUTS`. Default: `USUAL`.
        conventions: keys of `STEP_SCORES`: how the tokens of a turn make its score.
        against: the read-out that all others are compared with.
        how: resamples over episodes, confidence, seed.

    Raises:
        UserError: an unknown name, or turns without labels.
    """
    names = tuple(dict.fromkeys((*(readouts or USUAL), against)))
    for name in conventions:
        if name not in STEP_SCORES:
            raise unknown_name("step score", name, STEP_SCORES)
    episodes, tokens, models = list[ReadEpisode](), 0, 0.0
    for _, group in groupby(traces, lambda trace: trace.id.partition(GOES_ON)[0]):
        parts = list(group)
        episodes.append(_read(parts, names, conventions))
        tokens += sum(part.totals.tokens for part in parts)
        models = max(models, float(trace_cost(parts)["models"]))
    if not episodes:
        raise UserError("There are no episodes to judge.", "Is the file empty?")
    tables, numbers = [], dict[str, Localisation]()
    for convention in conventions:
        parts_of = [
            Scored(np.stack([one.scores[name, convention] for name in names], 1), one.wrong) for one in episodes
        ]
        found = numbers[convention] = compared(("turns", ""), parts_of, (names, against), TURNS, how=how)
        tables.append(_table(found, convention))
    rows = {row.readout: row for row in numbers[conventions[0]].rows}
    examples = [
        ListedExample(
            one.id,
            titled(one.id, one.prompt),
            {
                f"AUROC of {against}": rows[against].per_example["auroc"][place],
                "turns": float(len(one.wrong)),
                "first wrong turn": _said(first_wrong((~one.wrong).tolist())),
            },
            one.stretch,
        )
        for place, one in enumerate(episodes)
    ]
    ordered = worst_first(examples, f"AUROC of {against}")
    cost = {"response_tokens": float(tokens), "models": models}
    return Outcome("turns", {"turn_scores": numbers}, tables, (), ordered, cost)


def _read(traces: Sequence[TokenTrace], names: Sequence[str], conventions: Sequence[str]) -> ReadEpisode:
    wrong = np.concatenate([_wrong(trace) for trace in traces])
    scores: dict[tuple[str, str], Floats] = {}
    for name in names:
        for convention in conventions:
            parts = [_suspicion(trace, name, convention) for trace in traces]
            scores[name, convention] = np.concatenate(parts)
        if name == "position":  # goes on where the past was written anew
            scores |= {(name, convention): np.arange(len(wrong), dtype=np.float64) for convention in conventions}
    first, steps = first_wrong((~wrong).tolist()), traces[0].spans.of("step")
    stretch = (steps.stretch(first),) if first is not None and first < len(steps) else ()
    return ReadEpisode(traces[0].id, traces[0].prompt, wrong, scores, stretch)


def _wrong(trace: TokenTrace) -> Bools:
    labels = trace.spans.of("step").columns["label"]
    if not len(labels) or labels.min() < 0:
        raise UserError(
            f"Trace {trace.id} has no labelled turns.",
            "Read the episodes with --data: traces of another command do not say which turns are wrong.",
        )
    return np.asarray(labels == 0)


def _suspicion(trace: TokenTrace, name: str, convention: str) -> Floats:
    """Return [T] the suspicion of each turn; what looks at no model gives one number a turn, whatever its length."""
    known, bounds = readouts_of([trace]), step_bounds(trace)
    if name not in known:
        raise unknown_name("read-out of these traces", name, known)
    found = known[name](trace)
    return found[: len(bounds)] if name in BLIND else -STEP_SCORES[convention](-found, bounds)


def _turn_metrics(scores: Floats, wrong: Bools) -> dict[str, Floats]:
    """Return the metrics of an episode; `first`: whether the most suspicious turn is the first wrong one."""
    found = example_metrics(scores, wrong, (1,))
    if wrong.any():
        only = np.arange(len(wrong)) == wrong.argmax()
        found["first"] = example_metrics(scores, only, (1,))["top_1"]
    return found


TURNS = Metrics(("auroc", "average_precision", "top_1", "first"), _turn_metrics)
"""The metrics of an episode."""


def _table(found: Localisation, convention: str) -> Table:
    metrics = ("auroc", "pooled_auroc", "first", "top_1", "average_precision")
    rows: list[list[Cell]] = [
        [label(row.readout), *(row.metrics[name] for name in metrics), row.differences["auroc"]]
        for row in sorted(found.rows, key=lambda row: numbers_first(-row.metrics["auroc"].value))
    ]
    rows.append(["chance", *(found.chance[name] for name in metrics), None])
    note = (
        f"{found.examples} episodes, {found.wrong_tokens} of {found.tokens} turns wrong; left out of the AUROC within "
        f"episodes: {found.without_wrong} episodes without a wrong turn, {found.without_right} without a right one; "
        "intervals over episodes, differences paired"
    )
    head = ("read-out", "AUROC within episodes", "AUROC of all turns", "top 1 is the first wrong", "top 1 is wrong")
    title = f"wrong turns, by the {convention} over a turn"
    return Table(title, (*head, "average precision", f"AUROC − {label(found.against)}"), rows, note)


def _said(place: int | None) -> str:
    return "none" if place is None else str(place + 1)
