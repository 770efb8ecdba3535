"""Margins of rows by policies that never saw them: K trainings, each without one fold, which it then reads.

A run's margins on its own training rows are something else: a policy that has learnt a wrong label agrees with it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tokenq
from tokenq.curation.folds import folds_of
from tokenq.errors import UserError
from tokenq.files import JsonLines, plain, read_json, write_json, write_json_lines
from tokenq.jobs.load import load
from tokenq.jobs.outputs import claimed_folder
from tokenq.jobs.reader import Reader
from tokenq.jobs.run import Run
from tokenq.jobs.train import train
from tokenq.listener import SILENCE, Event, Listener
from tokenq.records.examples import ContextMessage, Example, Message, Text
from tokenq.rundir import RunDir, provenance

MADE_BY = "tokenq folds"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoldMargins:
    """What policies that never saw a pair say about it.

    Attributes:
        folds: [N] the fold of each pair.
        margins: [N] implicit reward of the chosen response above that of the rejected one; NaN where the pair is longer
            than the model can read.
        ref_margins: [N] likewise log π_ref, nats.
        runs: the run that read each fold: the one that was trained without it.
    """

    folds: NDArray[np.int64]
    margins: Floats
    ref_margins: Floats
    runs: tuple[Run, ...]


def cross_fitted_margins(
    pairs: Sequence[Example],
    folder: Path,
    training: Mapping[str, Any],
    *,
    folds: int = 5,
    seed: int = 0,
    listener: Listener = SILENCE,
) -> FoldMargins:
    """Train a policy without each fold, read the fold with it, and return a margin a pair.

    All stays in the folder: `fold-1`, … are runs, `margins.jsonl` a line a pair. The same call goes on where a killed
    one stopped, and does nothing where it had ended.

    Args:
        pairs: examples that are pairs; those of one prompt are in one fold.
        folder: where it is kept.
        training: keywords of `tokenq.train` (model, loss, beta, …) but for data, output, eval_data and resume.
        folds: how many trainings, at most as many as there are different prompts.
        seed: of the folds.
        listener: told how far it is.

    Raises:
        UserError: there are fewer prompts than folds, the folder holds margins of something else, or what a training
            raises.
    """
    own = folds_of([pair.prompt for pair in pairs], folds, seed)
    key = _key(pairs, training, folds, seed)
    record = folder / "folds.json"
    beside = ("margins.jsonl", *(f"fold-{fold + 1}" for fold in range(folds)))
    with claimed_folder(MADE_BY, record, beside, overwrite=False):
        _claim(record, key, training, seed)
        read: list[tuple[int, float, float]] = []
        runs = []
        for fold in range(folds):
            place = folder / f"fold-{fold + 1}"
            listener.say(f"fold {fold + 1} of {folds}: trained without {int((own == fold).sum()):,} pairs")
            held = [(number, pair) for number, pair in enumerate(pairs) if own[number] == fold]
            rest = [pair for number, pair in enumerate(pairs) if own[number] != fold]
            runs.append(_trained(place, rest, training, listener))
            read += _read(place, held, training, listener)
        found = np.array([numbers for _, *numbers in sorted(read)], np.float64)
        margins, ref_margins = found[:, 0], found[:, 1]
        write_json_lines(
            folder / "margins.jsonl",
            (
                {"row": number, "where": pair.where, "fold": int(fold) + 1, "margin": m, "ref_margin": r}
                for number, (pair, fold, m, r) in enumerate(zip(pairs, own, margins, ref_margins, strict=True))
            ),
        )
    return FoldMargins(own, margins, ref_margins, tuple(runs))


def _claim(record: Path, key: str, training: Mapping[str, Any], seed: int) -> None:
    """Write what the folder holds, and refuse one that holds something else."""
    if not record.exists():
        made = provenance(plain(dict(training)), seed, {})
        write_json(record, {"made_by": MADE_BY, "key": key, **made})
    elif read_json(record).get("key") != key:
        raise UserError(
            f"{record.parent} holds margins of other data, or by other trainings.",
            "Name another folder, or delete that one.",
        )


def _key(pairs: Sequence[Example], training: Mapping[str, Any], folds: int, seed: int) -> str:
    """Return a key of all that the margins depend on."""
    digest = hashlib.sha256(repr((tokenq.__version__, folds, seed)).encode())
    digest.update(json.dumps(plain(dict(training)), sort_keys=True, default=str).encode())
    for pair in pairs:
        digest.update(json.dumps(pair_row(pair), sort_keys=True, default=str).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _trained(place: Path, pairs: Sequence[Example], training: Mapping[str, Any], listener: Listener) -> Run:
    """Return the run of a fold, trained as far as it has not been."""
    if not RunDir(place).policy.exists():
        asked = {**training, "resume": place.exists(), "bad_rows": "drop"}
        train(data=list(map(pair_row, pairs)), output=place, listener=listener, **asked)
    return Run(place)


def _read(
    place: Path, held: Sequence[tuple[int, Example]], training: Mapping[str, Any], listener: Listener
) -> Iterator[tuple[int, float, float]]:
    """Yield (number, margin, margin of the reference) of the pairs of a fold, read once and kept beside its run."""
    kept = place / "margins.jsonl"
    if not kept.exists():
        reader = load(Run(place), listener=listener, **loading(training))
        read = read_margins(reader, [pair for _, pair in held], listener)
        lines = zip((number for number, _ in held), read.tolist(), strict=True)
        write_json_lines(kept, ({"row": n, "margin": margin, "ref_margin": ref} for n, (margin, ref) in lines))
    for line in JsonLines(kept).read():
        margin, ref = (np.nan if line[name] is None else line[name] for name in ("margin", "ref_margin"))
        yield line["row"], margin, ref


def read_margins(reader: Reader, pairs: Sequence[Example], listener: Listener = SILENCE) -> Floats:
    """Return [N, 2] what a policy and its reference say of pairs: margin of implicit rewards, and of log π_ref, nats.

    Args:
        reader: the two models.
        pairs: what to read; NaN for those that the models cannot read.
        listener: told how far it is.
    """
    found = np.full((len(pairs), 2), np.nan)
    rows, _ = reader.rows(named_by_place(pairs), "drop")
    for count, (row, (chosen, rejected, *_)) in enumerate(zip(rows, reader.totals(rows), strict=True), 1):
        place, (better, worse) = int(row.group.where), (chosen.totals, rejected.totals)
        found[place, 0] = better.given("implicit_reward") - worse.given("implicit_reward")
        found[place, 1] = better.given("ref_logp") - worse.given("ref_logp")
        listener(Event("reading", count, len(rows)))
    return found


def loading(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return those keywords of a training that say how a model is loaded and read."""
    return {name: training[name] for name in _LOADING if name in training}


_OF_ITS_OWN = frozenset(
    {
        *("data", "output", "eval_data", "eval_size", "eval_steps", "keep_best", "early_stopping_patience"),
        *("columns", "style", "bad_rows", "pairing", "same_length", "streaming", "shuffle_buffer", "resume"),
        *("report_to", "run_name", "token_weights", "token_traces", "token_weight_options"),
    }
)
"""Settings of a run that are of its own data and outputs, and not taken over by trainings on pairs of texts."""


def taken_over(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as keywords for the trainings of folds."""
    return {name: value for name, value in recorded.items() if name not in _OF_ITS_OWN}


_LOADING = ("dtype", "device", "attention", "trust_remote_code", "tokens_per_batch", "base", "max_length")
"""Keywords that `tokenq.train` and `tokenq.load` share."""


def named_by_place(pairs: Sequence[Example]) -> list[Example]:
    """Return pairs under their numbers, from 0: two sources may have rows of one name."""
    return [replace(pair, responses=pair.responses[:2], where=str(number)) for number, pair in enumerate(pairs)]


def pair_row(pair: Example) -> dict[str, Any]:
    """Return a pair as a row that any preference trainer reads."""
    chosen, rejected = (_said(response.content) for response in pair.responses[:2])
    row: dict[str, Any] = {"prompt": _said(pair.prompt), "chosen": chosen, "rejected": rejected}
    context = dict(pair.context)
    if (tools := context.pop("tools", None)) is not None:
        row["tools"] = tools
    if context:
        row["chat_template_kwargs"] = context
    return row if pair.margin is None else row | {"margin": pair.margin}


def _said(text: Text) -> str | list[dict[str, Any]]:
    return text if isinstance(text, str) else list(map(_turn, text))


def _turn(turn: Message) -> dict[str, Any]:
    return turn.to_dict() | ({"weight": 0} if isinstance(turn, ContextMessage) else {})
