"""Traces to disk: one line a row as they come, so that a kill loses nothing; the file appears when it is whole."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.progress import track

import tokenq
from tokenq.cli.outputs import is_made, recorder
from tokenq.cli.parts import Parts
from tokenq.data.digest import data_digest, group_digest
from tokenq.files import plain
from tokenq.records import SCHEMA
from tokenq.rundir import provenance
from tokenq.score.health import pair_warnings
from tokenq.score.trace import Row
from tokenq.session import Session
from tokenq.traces import read_traces, write_traces

_LOOKED_AT = 64
"""Traces by which the pair of models is judged."""


def score_to_file(
    path: Path,
    session: Session,
    rows: Sequence[Row],
    config: Mapping[str, Any],
    console: Console,
    made_by: str = "tokenq score",
) -> None:
    """Score the rows and write their traces to `path`, with a record of where they come from beside it.

    A file that holds the whole of the same job is left as it is. What a killed run of it has left behind is taken over,
    and the rest is scored in the batches of an uninterrupted run, so that it is the same to the last bit.

    Args:
        path: `.jsonl` or `.parquet`.
        session: the models.
        rows: what to score.
        config: what was asked for, for the record.
        console: where progress is shown.
        made_by: the command, for the record.
    """
    state, key = PartialState(), _key(session, rows)
    parts = Parts(path, key)
    if is_made(path, key):
        console.print(f"the traces of {len(rows)} rows are in {path} already")
        state.wait_for_everyone()
        if state.is_main_process:
            _warn(path, console)
            parts.remove()
        return
    own = rows[parts.mine]
    done = parts.begin()
    if done and state.is_main_process:
        console.print(f"going on after {done} of {len(own)} rows that were scored before")
    show, begin = state.is_main_process and console.is_terminal, time.perf_counter()
    scored = session.traces(own, done)
    for traces in track(scored, "scoring", len(own) - done, console=console, transient=True, disable=not show):
        parts.append({"traces": [trace.to_dict() for trace in traces]})
    seconds, tokens = time.perf_counter() - begin, sum(row.group.n_tokens for row in own[done:])
    if tokens and state.is_main_process:
        console.print(
            f"scored {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s through all models"
        )
    state.wait_for_everyone()
    if state.is_main_process:
        record = {**_record(session, rows, config), "made_by": made_by, "key": key}
        record["records"] = sum(len(row.texts) for row in rows)
        traces_of_all = (trace for line in parts.in_order() for trace in line["traces"])
        write_traces(path, traces_of_all, recorder(path, lambda: record))
        _warn(path, console)
        parts.remove()
        console.print(f"done: the traces of {len(rows)} rows are in {path}")


def _warn(path: Path, console: Console) -> None:
    """Say what the first traces tell against the pair of models."""
    for warning in pair_warnings(list(islice(read_traces(path), _LOOKED_AT))):
        console.print(f"warning: {warning}")


def _key(session: Session, rows: Sequence[Row]) -> str:
    """Return a key of all that the traces depend on."""
    options = session.options
    said = [f"{tokenq.__version__} {SCHEMA}", *(identity.get("weights", "") for identity in session.identities)]
    said += [] if session.rewards is None else [repr(session.rewards.described())]
    said += [repr((options.beta, options.dtype, options.top_k, list(options.levels)))]
    said += [f"{row.id}:{group_digest(row.group)}" for row in rows]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _record(session: Session, rows: Sequence[Row], config: Mapping[str, Any]) -> dict[str, Any]:
    digest = data_digest(row.group for row in rows)
    policy, reference = session.identities
    identities = {
        "policy": policy or None,
        "reference": reference or None,
        "reward_model": None if session.rewards is None else session.rewards.described(),
        "data": {"sources": plain(config["data"]), "sha256": digest},
    }
    return provenance(config, int(config["seed"]), identities)
