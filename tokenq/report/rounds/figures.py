"""The curves of an online run: numbers of rounds, of their steps, and of the evaluations between them.

A figure's place 0 is the policy at the start, and place k the policy after k rounds: what a round writes comes from the
policy of the round before.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenq.report.doctor_page import Figure, Line, drawn_figure
from tokenq.runs.record import Series

_DOTS = 40


class _Drawn(NamedTuple):
    """A figure of the page.

    Attributes:
        title: what it shows, with its unit.
        lines: (key in metrics.jsonl, label, kind).
        shift: added to the number of a round for its place.
        level: value of a line across.
    """

    title: str
    lines: tuple[tuple[str, str, str], ...]
    shift: int = -1
    level: float = 0.0


_FIGURES = (
    _Drawn("reward", (("round/reward", "samples", "first"), ("eval/reward", "held out, greedy", "second"))),
    _Drawn(
        "accuracy",
        (("eval/accuracy", "answers, held out", "first"), ("eval/judge_accuracy", "judge on known pairs", "second")),
    ),
    _Drawn(
        "success of episodes", (("round/success", "samples", "first"), ("eval/success", "held out, greedy", "second"))
    ),
    _Drawn("turns of an episode", (("round/turns", "samples", "first"), ("eval/turns", "held out, greedy", "second"))),
    _Drawn(
        "win rate on held-out prompts, ties half",
        (("eval/won_start", "against the start", "first"), ("eval/won_last", "against the round before", "second")),
        level=0.5,
    ),
    _Drawn("KL to the first reference, nats per response", (("round/kl", "KL", "first"),)),
    _Drawn(
        "KL to the reference of the round, nats per token",
        tuple((f"round/kl_{k}", k, kind) for k, kind in (("k1", "first"), ("k2", "second"), ("k3", "third"))),
    ),
    _Drawn("advantages", (("round/advantage_mean", "mean", "first"), ("round/advantage_std", "deviation", "second"))),
    _Drawn("variance that the values explain", (("round/explained_variance", "1 − Var(G − V)/Var(G)", "first"),)),
    _Drawn(
        "clipped tokens, share",
        (("clip_ratio/low_mean", "below", "first"), ("clip_ratio/high_mean", "above", "second")),
        shift=0,
    ),
    _Drawn("KL to the policy that wrote, nats per token", (("kl_old/k3", "k3", "first"),), shift=0),
    _Drawn(
        "rewards of tokens",
        (
            ("round/token_reward", "mean", "first"),
            ("round/token_reward_std", "deviation", "second"),
            ("round/token_reward_correlation", "correlation with the judge", "third"),
        ),
    ),
    _Drawn(
        "weights against another writer",
        (("round/importance_weight", "mean", "first"), ("round/importance_left_out", "share of 0", "second")),
    ),
    _Drawn("log π of what the reference writes, nats", (("round/logps_of_reference", "E_ref log π", "first"),)),
    _Drawn(
        "tokens per response", (("round/length", "samples", "first"), ("eval/length", "held out, greedy", "second"))
    ),
    _Drawn(
        "share of responses that are cut",
        (("round/truncated", "samples", "first"), ("eval/truncated", "held out, greedy", "second")),
    ),
    _Drawn("entropy, nats per token", (("round/entropy", "samples", "first"),)),
    _Drawn(
        "share that is distinct",
        (
            ("round/distinct", "responses", "first"),
            ("round/distinct_1", "tokens", "second"),
            ("round/distinct_2", "pairs of tokens", "third"),
        ),
    ),
    _Drawn(
        "nothing to learn from",
        (
            ("round/without_signal", "prompts that teach nothing", "first"),
            ("round/ties", "ties among comparisons", "second"),
            ("round/unusable", "responses without a reward", "third"),
        ),
    ),
    _Drawn(
        "prompts that are left out by their accuracy",
        (("round/filtered_easy", "too easy", "first"), ("round/filtered_hard", "too hard", "second")),
    ),
    _Drawn(
        "cost of a round, tokens",
        (
            ("round/written_tokens", "writer", "first"),
            ("round/judged_tokens", "judge", "second"),
            ("round/learnt_tokens", "trainer", "third"),
        ),
        shift=0,
    ),
    _Drawn(
        "time of a round, seconds",
        (
            ("seconds/writer", "writer", "first"),
            ("seconds/judge", "judge", "second"),
            ("seconds/trainer", "trainer", "third"),
            ("seconds/outside", "outside of them", "fourth"),
        ),
        shift=0,
    ),
)


def figures_of(lines: Sequence[Mapping[str, Any]], number: int) -> list[Figure]:
    """Return the figures for which there are numbers.

    Args:
        lines: of rounds and evaluations, as `with_steps` has them.
        number: of the last round.
    """
    return [figure for one in _FIGURES if (figure := _figure(one, lines, number)) is not None]


_OF_STEPS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "kl_old/k3")
"""Numbers of steps that are shown as their mean over a round."""


def with_steps(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines of rounds and evaluations, those of rounds with the means over their steps."""
    steps: dict[int, list[Mapping[str, Any]]] = {}
    number = 0
    for line in lines:
        number = int(line.get("round", number))
        steps.setdefault(number, []).append(line)

    def means(some: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        known = {name: [one[name] for one in some if one.get(name) is not None] for name in _OF_STEPS}
        return {name: sum(values) / len(values) for name, values in known.items() if values}

    rounds = [line for line in lines if "round" in line or "after_round" in line]
    return [{**line, **means(steps[int(line["round"])])} if "round" in line else line for line in rounds]


def _figure(asked: _Drawn, lines: Sequence[Mapping[str, Any]], number: int) -> Figure | None:
    drawn = []
    for key, label, kind in asked.lines:
        known = [line for line in lines if line.get(key) is not None]
        if not known:
            continue
        places = [int(line["round"]) + asked.shift if "round" in line else int(line["after_round"]) for line in known]
        series = Series(np.array(places, np.int64), _column(known, key))
        ends = tuple(_column(known, f"{key}_{end}") for end in ("low", "high"))
        whole = all(np.isfinite(end).all() for end in ends)
        drawn.append(Line(label, kind, series, (ends[0], ends[1]) if whole else None))
    return drawn_figure(asked.title, drawn, level=asked.level, dots=_DOTS, end=number)


def _column(lines: Sequence[Mapping[str, Any]], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if line.get(key) is None else line[key] for line in lines], np.float64)
