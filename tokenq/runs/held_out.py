"""The held-out pairs of a run with what its last evaluation found, as its `held_out.jsonl` has them.

A pair is told by the tokens of its prompt and of its two responses, so that runs which read the same text in the same
way share it, whatever their losses train on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenq.errors import UserError
from tokenq.files import JsonLines
from tokenq.records.schema import fits
from tokenq.rundir import RunDir

Floats = NDArray[np.float64]

_NUMBERS = ("tokens", "logp", "start_logp", "ref_logp")


class PairKey(NamedTuple):
    """What a pair is, as hashes of tokens.

    Attributes:
        prompt: of its prompt.
        chosen: of its chosen response.
        rejected: of its rejected response.
    """

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, eq=False)
class HeldOutPairs:
    """N pairs with their sums over tokens; columns are (chosen, rejected), NaN where a run has no such number.

    Attributes:
        keys: what they are; no pair is there twice.
        rows: where they came from.
        step: updates before the evaluation.
        tokens: [N, 2] that the policy wrote.
        logps: [N, 2] log π, in nats.
        starts: [N, 2] log π before the first update.
        references: [N, 2] log π_ref.
    """

    keys: tuple[PairKey, ...]
    rows: tuple[str, ...]
    step: int
    tokens: Floats
    logps: Floats
    starts: Floats
    references: Floats

    def places(self) -> dict[PairKey, int]:
        """Return the place of each pair."""
        return {key: place for place, key in enumerate(self.keys)}

    def at(self, keys: Sequence[PairKey]) -> "HeldOutPairs":
        """Return some pairs in another order; numbers of a pair that is not here are NaN."""
        known = self.places()
        index = np.array([known.get(key, -1) for key in keys], np.int64)

        def taken(table: Floats) -> Floats:
            return np.where(index[:, None] >= 0, table[index], np.nan)

        rows = tuple(self.rows[place] if place >= 0 else "" for place in index)
        tables = map(taken, (self.tokens, self.logps, self.starts, self.references))
        return HeldOutPairs(tuple(keys), rows, self.step, *tables)


def read_held_out(run: RunDir) -> HeldOutPairs:
    """Return the pairs that a run holds out: examples with one chosen and one rejected response.

    Raises:
        UserError: the file is missing or broken, or holds no pair.
    """
    lines = JsonLines(run.held_out).read()
    if not lines:
        raise UserError(
            f"{run.held_out} is missing or empty: the run does not tell what each held-out pair got.",
            f"tokenq train --config {run.config} --resume evaluates again, where a checkpoint was kept.",
        )
    examples: dict[int, dict[str, Mapping[str, Any]]] = {}
    double: set[int] = set()
    for number, line in enumerate(lines, start=1):
        _check(run, number, line)
        if line["side"] is not None:
            sides = examples.setdefault(line["example"], {})
            double |= {line["example"]} if line["side"] in sides else set()
            sides[line["side"]] = line
    found: dict[PairKey, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for example, sides in examples.items():
        if len(sides) == 2 and example not in double:
            chosen, rejected = sides["chosen"], sides["rejected"]
            found.setdefault(PairKey(chosen["prompt"], chosen["response"], rejected["response"]), (chosen, rejected))
    if not found:
        raise UserError(
            f"{run.held_out} holds no pair: no example has one chosen and one rejected response.",
            "Runs are compared by pairs; those of sft and of unpaired labels have none.",
        )
    tables = [np.array([[_number(one[name]) for one in pair] for pair in found.values()]) for name in _NUMBERS]
    rows = tuple(str(chosen["row"]) for chosen, _ in found.values())
    return HeldOutPairs(tuple(found), rows, int(lines[0]["step"]), *tables)


def _check(run: RunDir, number: int, line: Mapping[str, Any]) -> None:
    missing = [name for name in ("step", "example", "row", "prompt", "response", "side", *_NUMBERS) if name not in line]
    if missing:
        raise UserError(f"{run.held_out}, line {number}: {missing[0]} is missing.", "Restore the file.")
    kinds = {"step": int, "example": int, "prompt": str, "response": str, **dict.fromkeys(_NUMBERS, float | None)}
    wrong = next((name for name, kind in kinds.items() if not fits(line[name], kind)), None)
    if wrong is not None:
        raise UserError(f"{run.held_out}, line {number}: {wrong} is {line[wrong]!r}.", "Restore the file.")
    if line["side"] not in ("chosen", "rejected", None):
        raise UserError(f"{run.held_out}, line {number}: side is {line['side']!r}.", "It is chosen, rejected or null.")


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
