"""Win rates: from stored preferences, or from judgements of two or more systems' answers to the same prompts."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tokenq.density.rules import entities
from tokenq.errors import UserError
from tokenq.evaluation.density.answers import density_of_answers
from tokenq.evaluation.stored_preferences import Preferences
from tokenq.evaluation.task_generation import same_prompts
from tokenq.judge.judging import Comparison, Judge, Judgement, reliability, shares
from tokenq.records.results import SearchResult
from tokenq.stats.alpaca_eval import GamedBaselines, alpaca_eval_2
from tokenq.stats.bootstrap import PLAIN, Estimate, Resampling
from tokenq.stats.length_control import LengthControlled, length_controlled
from tokenq.stats.outcome import Cell, ListedExample, Outcome, Table
from tokenq.stats.strengths import Match, bradley_terry
from tokenq.stats.win_rate import WinRate, win_rate


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
    beside, numbers["density"] = density_of_answers(systems, entities, "rules", how)
    tables.append(beside)
    first, second = next(iter(made))
    examples = [
        ListedExample(one.id, one.id, {f"{first} over {second}": one.preference or f"unusable: {one.problem}"})
        for one in made[first, second]
    ]
    return Outcome("win-rate", numbers, tables, (), examples), made


def comparisons(systems: Mapping[str, Sequence[SearchResult]], ours: str, theirs: str) -> list[Comparison]:
    """Return the best answers of two systems to every prompt, side by side."""
    return [
        Comparison(one.id, one.prompt, _best(one), _best(other))
        for one, other in zip(systems[ours], systems[theirs], strict=True)
    ]


def _best(result: SearchResult) -> str:
    return result.candidates[0].text if result.candidates else ""


def _text_lengths(ours: Sequence[SearchResult], theirs: Sequence[SearchResult]) -> tuple[list[int], list[int]]:
    return [len(_best(one)) for one in ours], [len(_best(one)) for one in theirs]


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
    index = one.instructions or list(range(len(one.shares)))
    return minimal, alpaca_eval_2(one.shares, one.lengths, one.baseline_lengths, index, gamed)


def _raw(raw: WinRate) -> list[Cell]:
    rate = Estimate(raw.win_rate, *raw.interval, raw.n)
    return [rate, raw.standard_error, raw.n, raw.unusable, raw.wins, raw.losses, raw.ties]


def _estimate(interval: tuple[float, float], value: float, n: int) -> Estimate:
    return Estimate(value, *interval, n)
