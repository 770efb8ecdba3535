"""From what two models say at every position to traces: the place where numbers meet text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tokenq.core.readout import Candidates, Readout
from tokenq.core.tensors import PackedBatch
from tokenq.data.stretches.segments import COLUMN
from tokenq.errors import UserError
from tokenq.records.trace_alternatives import Alternatives, no_alternatives
from tokenq.records.trace_records import TOKEN_COLUMNS, Numbers, nothing_of
from tokenq.records.trace_tokens import Spans, Tokens
from tokenq.records.traces import GAUGE, Side, TokenTrace, Totals
from tokenq.score.rows import LogpsReader, PairReader, ScoredRow, Scoring, each_response, own_slices
from tokenq.score.segments import betas, segment_spans
from tokenq.score.spans import spans_of, together


class ReadTokens(NamedTuple):
    """What both models say of the tokens of a response that the policy wrote.

    Attributes:
        ids: which tokens they are.
        columns: their numbers, by the name of the field.
        alternatives: what could have stood at them.
    """

    ids: Numbers
    columns: Mapping[str, Numbers]
    alternatives: Alternatives


def score(
    rows: Sequence[ScoredRow], reader: PairReader, scoring: Scoring, budget: int, done: int = 0
) -> Iterator[list[TokenTrace]]:
    """Yield the traces of every row that is not done, in order: one list a row, one trace per response.

    Args:
        rows: what to score.
        reader: reads both models.
        scoring: what all traces share.
        budget: most tokens in one forward.
        done: rows at the beginning that are done already; the others meet in the batches of a whole pass.

    Raises:
        UserError: a model has no finite log-prob for a token taken.
    """
    scoring = replace(scoring, decode=cache(scoring.decode))
    found = each_response(rows, lambda batch: _by_response(batch, reader(batch), scoring), budget, done)
    for row, responses in zip(rows[done:], found, strict=True):
        yield [_trace(row, which, one, scoring) for which, one in enumerate(responses)]


def score_totals(
    rows: Sequence[ScoredRow], reader: LogpsReader, scoring: Scoring, budget: int, done: int = 0
) -> Iterator[list[TokenTrace]]:
    """Yield the totals of every row that is not done, in order, as traces without tokens; for the rest as `score`."""

    def read(batch: PackedBatch) -> Iterator[ReadTokens]:
        logps, ref_logps = map(_numbers, reader(batch))
        beta = betas(batch, scoring.segments, scoring.beta)
        columns = {"logp": logps, "ref_logp": ref_logps, "implicit_reward": beta * (logps - ref_logps)}
        for own in own_slices(batch):
            held = {name: column[own] for name, column in columns.items()}
            yield ReadTokens(_numbers(batch.targets[own]), held, no_alternatives(scoring.beta, 0))

    for row, responses in zip(rows[done:], each_response(rows, read, budget, done), strict=True):
        for one in responses:
            _refuse_odd(row, one, scoring)
        yield [bare_trace(row, which, scoring, one.columns) for which, one in enumerate(responses)]


def without_tokens(trace: TokenTrace) -> TokenTrace:
    """Return the totals of a trace alone."""
    return replace(trace, tokens=_no_tokens(trace.response, trace.beta), spans=together([]))


def _no_tokens(response: str, beta: float) -> Tokens:
    nothing = {name: nothing_of(kind, 0) for name, kind in TOKEN_COLUMNS.items()}
    return Tokens(response, nothing, np.zeros((0, 0)), no_alternatives(beta, 0))


def bare_trace(row: ScoredRow, which: int, scoring: Scoring, columns: Mapping[str, Numbers] = {}) -> TokenTrace:
    """Return a trace without tokens: the totals of the numbers of its tokens, None without any."""
    sums = {name: sum(column.tolist(), 0.0) for name, column in columns.items()}
    totals = Totals(
        sums.get("implicit_reward"), sums.get("logp"), sums.get("ref_logp"), int(row.group.responses[which].mask.sum())
    )
    tokens = _no_tokens(row.texts[which].text, scoring.beta)
    return _described(row, which, scoring, tokens, together([]), totals)


def _by_response(batch: PackedBatch, read: Readout, scoring: Scoring) -> Iterator[ReadTokens]:
    """Yield for every response what was read of its own tokens."""
    ids, logps, ref_logps = (_numbers(column) for column in (batch.targets, read.logps, read.ref_logps))
    entropies, kls, ref_kls = (_numbers(column) for column in (read.entropies, read.kls, read.ref_kls))
    beta = betas(batch, scoring.segments, scoring.beta)
    columns = {
        "logp": logps,
        "ref_logp": ref_logps,
        "implicit_reward": beta * (logps - ref_logps),
        "advantage": beta * logps,
        "centred_advantage": beta * (logps + entropies),
        "rank": _numbers(read.ranks),
        "ref_rank": _numbers(read.ref_ranks),
        "entropy": entropies,
        "ref_entropy": _numbers(read.ref_entropies),
        "kl": np.where(np.isfinite(kls), kls, np.nan),
        "ref_kl": np.where(np.isfinite(ref_kls), ref_kls, np.nan),
    }
    every = alternatives_of(read.likely, read.ref_likely, scoring)
    for own in own_slices(batch):
        yield ReadTokens(ids[own], {name: column[own] for name, column in columns.items()}, every[own])


def _numbers(column: Tensor) -> Numbers:
    found: Numbers = column.cpu().numpy()
    return found if found.dtype == np.int64 else found.astype(np.float64)


def _refuse_odd(row: ScoredRow, read: ReadTokens, scoring: Scoring) -> None:
    """Refuse log-probs that are no numbers.

    Raises:
        UserError: names the first.
    """
    odd = np.flatnonzero(~(np.isfinite(read.columns["logp"]) & np.isfinite(read.columns["ref_logp"])))
    for place in odd[:1].tolist():
        values = {"policy": read.columns["logp"][place], "reference": read.columns["ref_logp"][place]}
        model, value = next((name, value) for name, value in values.items() if not np.isfinite(value))
        raise UserError(
            f"{row.group.where}: the {model} gives {scoring.decode(int(read.ids[place]))!r} a log-prob of {value}.",
            "Half precision may overflow: try --dtype float32, or bfloat16 instead of float16.",
        )


def _trace(row: ScoredRow, which: int, read: ReadTokens, scoring: Scoring) -> TokenTrace:
    _refuse_odd(row, read, scoring)
    bare = bare_tokens(row, which, scoring.beta)
    if bare.written.all():
        columns, alternatives = {**bare.columns, **read.columns}, read.alternatives
    else:
        columns, alternatives = {**bare.columns, **_spread(read.columns, bare)}, read.alternatives.spread(bare.written)
    rewards = columns["implicit_reward"]
    columns["prefix_value"] = np.cumsum(np.where(bare.written, rewards, 0.0))
    return assemble(row, which, replace(bare, columns=columns, alternatives=alternatives), scoring)


def _spread(columns: Mapping[str, Numbers], bare: Tokens) -> dict[str, Numbers]:
    """Return the numbers of written tokens among those that the policy did not write."""
    found = {name: bare.columns[name].copy() for name in columns}
    for name, column in columns.items():
        found[name][bare.written] = column
    return found


def bare_tokens(row: ScoredRow, which: int, beta: float) -> Tokens:
    """Return the tokens of a response in their places, without numbers."""
    response, text = row.group.responses[which], row.texts[which]
    count, ends = len(response.ids), text.ends.astype(np.int64)
    columns = {name: nothing_of(kind, count) for name, kind in TOKEN_COLUMNS.items()}
    columns |= {"id": response.ids.astype(np.int64), "start": np.append([0], ends[:-1]), "end": ends}
    columns["written"] = response.mask
    return Tokens(text.text, columns, np.zeros((count, 0)), no_alternatives(beta, count))


def assemble(row: ScoredRow, which: int, tokens: Tokens, scoring: Scoring, said: tuple[str, ...] = ()) -> TokenTrace:
    """Return the trace of a response from its tokens.

    Args:
        row: the row.
        which: which of its responses.
        tokens: its tokens with their numbers.
        scoring: what all traces share.
        said: further warnings.
    """

    def total(name: str) -> float | None:
        return sum(np.nan_to_num(tokens.numbers(name)).tolist(), 0.0) if scoring.policy else None

    totals = Totals(total("implicit_reward"), total("logp"), total("ref_logp"), int(tokens.written.sum()))
    parts = [spans_of(cut, tokens, row.example.responses[which]) for cut in scoring.cuts]
    if scoring.segments:
        parts += segment_spans(tokens, row.group.responses[which].token_columns[COLUMN], scoring.segments)
    spans = together(parts)
    return _described(row, which, scoring, tokens, spans, totals, said)


def _described(
    row: ScoredRow,
    which: int,
    scoring: Scoring,
    tokens: Tokens,
    spans: Spans,
    totals: Totals,
    said: tuple[str, ...] = (),
) -> TokenTrace:
    text, given = row.texts[which], row.example.responses[which]
    side: Side | None = ("chosen", "rejected")[which] if row.group.is_pair else None
    return TokenTrace(
        id=f"{row.id}/{side}" if side else row.id if len(row.texts) == 1 else f"{row.id}/{which}",
        prompt=text.prompt,
        response=text.text,
        side=side,
        beta=scoring.beta,
        gauge=GAUGE,
        terminal=row.group.responses[which].terminal,
        policy=scoring.policy,
        reference=scoring.reference,
        tokens=tokens,
        spans=spans,
        totals=totals,
        warnings=(*scoring.warnings, *row.warnings, *said),
        label=given.label,
        score=given.score,
    )


def alternatives_of(likely: Candidates, ref_likely: Candidates, scoring: Scoring) -> Alternatives:
    """Return what both models find most likely at each token, and which of these have the highest implicit reward.

    Fewer than they were asked for where one of the two rules a token out.
    """
    tables = [tuple(map(_numbers, (one.ids, one.logps, one.ref_logps))) for one in (likely, ref_likely)]
    (ids, *_), (ref_ids, *_) = tables
    held, ref_held = (np.isfinite(logps) & np.isfinite(ref_logps) for _, logps, ref_logps in tables)
    same = (ref_ids[:, :, None] == ids[:, None, :]) & held[:, None, :]
    new = ref_held & ~same.any(2)
    kept = np.concatenate((held, new), axis=1)
    places = np.cumsum(kept, axis=1, dtype=np.int32) - 1  # of each entry among those of its token
    known = same.argmax(2) if ids.shape[1] else np.zeros_like(ref_ids)
    ref_places = np.where(new, places[:, ids.shape[1] :], np.take_along_axis(places, known, 1) if kept.size else 0)
    every, logps, ref_logps = (np.concatenate(both, axis=1) for both in zip(*tables, strict=True))
    with np.errstate(invalid="ignore"):
        rewards = np.where(kept, scoring.beta * (logps - ref_logps), -np.inf)
    order = np.argsort(-rewards, axis=1, kind="stable")
    best = np.arange(order.shape[1]) < held.sum(1)[:, None]
    words, codes = np.unique(every[kept], return_inverse=True)
    likeliest, others = held.sum(1, dtype=np.int32), ref_held.sum(1, dtype=np.int32)
    return Alternatives(
        beta=scoring.beta,
        counts=kept.sum(1, dtype=np.int32),
        ids=every[kept].astype(np.int32),
        logps=logps[kept],
        ref_logps=ref_logps[kept],
        words=codes.astype(np.int32),
        texts=[scoring.decode(word) for word in words.tolist()],
        sizes={"likely": likeliest, "ref_likely": others, "favoured": likeliest},
        places={
            "likely": places[:, : ids.shape[1]][held],
            "ref_likely": ref_places[ref_held],
            "favoured": np.take_along_axis(places, order, 1)[best],
        },
    )
