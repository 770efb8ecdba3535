"""Win rates: from stored preferences, or from judgements of two or more systems' answers to the same prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tokenq.errors import UserError
from tokenq.evaluate.alpaca_eval import GamedBaselines, alpaca_eval_2, from_alpaca_eval
from tokenq.evaluate.bootstrap import PLAIN, Estimate, Floats, Resampling
from tokenq.evaluate.judging import Comparison, Judge, Judgement, reliability, shares
from tokenq.evaluate.length_control import LengthControlled, length_controlled
from tokenq.evaluate.outcome import Cell, Example, Outcome, Table
from tokenq.evaluate.strengths import Match, bradley_terry
from tokenq.evaluate.task_generation import same_prompts
from tokenq.evaluate.win_rate import WinRate, win_rate
from tokenq.records import Text
from tokenq.results import SearchResult


@dataclass(frozen=True)
class Preferences:
    """Stored judgements of one system against a baseline, one a prompt.

    Attributes:
        system: its name.
        shares: [N] share of the system: 1, 0, ½ for a tie, NaN where the judgement was unusable.
        lengths: of the system's responses; empty where nobody knows.
        baseline_lengths: of the baseline's.
        published: win rates that others have published of the same judgements, per cent.
    """

    system: str
    shares: Floats
    lengths: Sequence[int] = ()
    baseline_lengths: Sequence[int] = ()
    published: Mapping[str, float] | None = None


def read_preferences(rows: Sequence[Mapping[str, Any]], where: str) -> list[Preferences]:
    """Return stored judgements, in either of two forms.

    A row a system: `model`, `preference` (a list as AlpacaEval has it: 1 for the baseline, 2 for the model),
    `model_length` and `baseline_length` (lists). Or a row a prompt: `preference` (the system's share of 0 to 1, or
    "first", "second", "tie"), perhaps `system`, `length` and `baseline_length`.

    Raises:
        UserError: a row is in neither form.
    """
    if rows and isinstance(rows[0].get("preference"), list):
        return [
            Preferences(
                str(row.get("model", f"row {number}")),
                from_alpaca_eval(row["preference"]),
                row.get("model_length") or (),
                row.get("baseline_length") or (),
                row.get("published"),
            )
            for number, row in enumerate(rows, 1)
        ]
    by_system: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    words = {"first": 1.0, "second": 0.0, "tie": 0.5, None: np.nan}
    for number, row in enumerate(rows, 1):
        said = row.get("preference")
        share = words.get(said, np.nan) if said is None or isinstance(said, str) else said
        known = said is None or said in words or (isinstance(said, int | float) and not isinstance(said, bool))
        if "preference" not in row or not known:
            raise UserError(
                f"{where}, row {number}: 'preference' is {said!r}.", "It is a share of 0 to 1, first, second or tie."
            )
        by_system.setdefault(str(row.get("system", "system")), []).append((float(share), row))
    return [
        Preferences(name, np.array([share for share, _ in own]), *_lengths([row for _, row in own]))
        for name, own in by_system.items()
    ]


def from_preferences(
    stored: Sequence[Preferences], gamed: GamedBaselines | None = None, how: Resampling = PLAIN
) -> Outcome:
    """Return win rates of stored judgements, raw and at equal lengths.

    Args:
        stored: judgements of some systems.
        gamed: AlpacaEval's table of gamed baselines, for its own form of length control; the minimal form without.
        how: resamples, confidence, seed.
    """
    rows: list[list[Cell]] = []
    numbers: dict[str, Any] = {}
    for one in stored:
        raw = win_rate(one.shares, how.confidence)
        forms = _controlled(one, gamed)
        rows.append([one.system, *_raw(raw), *(_estimate(form.interval, form.win_rate, form.n) for form in forms)])
        numbers[one.system] = {"raw": raw, "length_controlled": list(forms), "published": one.published}
    head = ["system", "win rate", "standard error", "n", "unusable", "wins", "losses", "ties"]
    width = max((len(row) for row in rows), default=8)
    head += ["at equal lengths: minimal form", "AlpacaEval 2's form"][: width - len(head)]
    note = (
        "shares of one; the minimal form is logistic in tanh of the standardised length difference and a constant: "
        "without AlpacaEval's difficulties and gamed baselines it is not its published length-controlled win rate"
    )
    return Outcome("win-rate", numbers, [Table("win rates against the baseline", head, rows, note)])


def judged(
    systems: Mapping[str, Sequence[SearchResult]], judge: Judge, how: Resampling = PLAIN
) -> tuple[Outcome, dict[tuple[str, str], list[Judgement]]]:
    """Return who wins among some systems' best answers, and every judgement.

    Each two systems are compared on every prompt; with more than two, strengths are by Bradley-Terry.

    Args:
        systems: by name, what each found for the same prompts; the last of two is the baseline.
        judge: says which of two responses is better.
        how: resamples, confidence, seed.

    Raises:
        UserError: fewer than two systems, or different prompts.
    """
    if len(systems) < 2:
        raise UserError("A win rate takes two systems or more.", "Name their results: --results ours=… theirs=…")
    same_prompts(systems)
    made: dict[tuple[str, str], list[Judgement]] = {}
    rows: list[list[Cell]] = []
    numbers: dict[str, Any] = {}
    matches: list[Match] = []
    for ours, theirs in combinations(systems, 2):
        judgements = judge(comparisons(systems, ours, theirs))
        made[ours, theirs] = judgements
        own = Preferences(f"{ours} over {theirs}", shares(judgements), *_text_lengths(systems[ours], systems[theirs]))
        raw, trust = win_rate(own.shares, how.confidence), reliability(judgements)
        forms = _controlled(own, None)
        rows.append([own.system, *_raw(raw), *(_estimate(form.interval, form.win_rate, form.n) for form in forms)])
        rows[-1] += [None] * (9 - len(rows[-1])) + [trust.position_bias]
        numbers[own.system] = {"raw": raw, "length_controlled": list(forms), "reliability": trust}
        matches += [
            Match(ours, theirs, None if np.isnan(share) else float(share), one.id)
            for one, share in zip(systems[ours], own.shares, strict=True)
        ]
    head = ["", "win rate", "standard error", "n", "unusable", "wins", "losses", "ties"]
    head += ["at equal lengths: minimal form", "position bias"]
    tables = [Table("win rates", head, rows, "shares of one; both orders are asked, and a contradiction is a tie")]
    if len(systems) > 2:
        strengths = bradley_terry(matches)
        numbers["bradley_terry"] = strengths
        cells: list[list[Cell]] = [
            [one.system, _estimate(one.interval, one.strength, one.n), one.win_rate] for one in strengths.systems
        ]
        tables.append(Table("Bradley-Terry", ("system", "strength, log-odds", "win rate"), cells))
    first, second = next(iter(made))
    examples = [
        Example(one.id, one.id, {f"{first} over {second}": one.preference or f"unusable: {one.problem}"})
        for one in made[first, second]
    ]
    return Outcome("win-rate", numbers, tables, (), examples), made


def comparisons(systems: Mapping[str, Sequence[SearchResult]], ours: str, theirs: str) -> list[Comparison]:
    """Return the best answers of two systems to every prompt, side by side."""
    return [
        Comparison(one.id, _as_text(one.prompt), _best(one), _best(other))
        for one, other in zip(systems[ours], systems[theirs], strict=True)
    ]


def _best(result: SearchResult) -> str:
    return result.candidates[0].text if result.candidates else ""


def _as_text(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def _text_lengths(ours: Sequence[SearchResult], theirs: Sequence[SearchResult]) -> tuple[list[int], list[int]]:
    return [len(_best(one)) for one in ours], [len(_best(one)) for one in theirs]


def _lengths(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[int], Sequence[int]]:
    if not all("length" in row and "baseline_length" in row for row in rows):
        return (), ()
    return [int(row["length"]) for row in rows], [int(row["baseline_length"]) for row in rows]


def _controlled(one: Preferences, gamed: GamedBaselines | None) -> tuple[LengthControlled, ...]:
    """Return the win rates at equal lengths that these judgements allow."""
    if not len(one.lengths):
        return ()
    try:
        minimal = length_controlled(one.shares, one.lengths, one.baseline_lengths)
    except UserError:  # lengths that never differ, or decide everything: there is nothing to control for
        return ()
    if gamed is None:
        return (minimal,)
    index = list(range(len(one.shares)))
    return minimal, alpaca_eval_2(one.shares, one.lengths, one.baseline_lengths, index, gamed)


def _raw(raw: WinRate) -> list[Cell]:
    rate = Estimate(raw.win_rate, *raw.interval, raw.n)
    return [rate, raw.standard_error, raw.n, raw.unusable, raw.wins, raw.losses, raw.ties]


def _estimate(interval: tuple[float, float], value: float, n: int) -> Estimate:
    return Estimate(value, *interval, n)
