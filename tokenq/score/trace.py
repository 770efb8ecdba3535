"""From what two models say at every position to traces: the place where numbers meet text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from tokenq.core.packing import pack, plan_pass
from tokenq.core.readout import Candidates, Readout
from tokenq.core.tensors import PackedBatch
from tokenq.data.tokenize import ResponseText
from tokenq.errors import UserError
from tokenq.records.examples import Example, TokenGroup, TokenResponse
from tokenq.records.traces import GAUGE, Alternative, Side, TokenTrace, Totals, TraceToken
from tokenq.score.spans import Cut, spans_of

PairReader = Callable[[PackedBatch], Readout]
"""Reads both models at every target of a batch."""

CHUNK = 256
"""Groups that are batched by length together; traces leave in the order of the rows, a chunk at a time."""


@dataclass(frozen=True)
class Scoring:
    """What all traces of a run share.

    Attributes:
        beta: KL temperature.
        policy: identity of the policy; empty where none reads.
        reference: identity of the reference.
        decode: (token id) → its text, for alternatives.
        cuts: the levels at which spans are made.
        warnings: what is said about every trace.
    """

    beta: float
    policy: Mapping[str, Any]
    reference: Mapping[str, Any]
    decode: Callable[[int], str]
    cuts: Sequence[Cut] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoredRow:
    """One row to score.

    Attributes:
        id: its name, such as its number in the data.
        group: its tokens.
        texts: the texts of its responses.
        example: the row as the data has it (labels, steps).
        warnings: what is to be said about it.
    """

    id: str
    group: TokenGroup
    texts: tuple[ResponseText, ...]
    example: Example
    warnings: tuple[str, ...] = field(default=())


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
    for start in range(done // CHUNK * CHUNK, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        first = max(0, done - start)
        found: dict[int, list[TokenTrace]] = {}
        for places in plan_pass([row.group.n_tokens for row in chunk], budget, first):
            batch = pack([chunk[place].group for place in places], places)
            with torch.no_grad():
                read = reader(batch)
            for (place, which), numbers in zip(batch.actions.members, _by_response(batch, read), strict=True):
                found.setdefault(place, []).append(_trace(chunk[place], which, numbers, scoring))
        yield from (found[place] for place in range(first, len(chunk)))


_NUMBERS = ("logps", "ref_logps", "ranks", "ref_ranks", "entropies", "ref_entropies", "kls", "ref_kls")


def _by_response(batch: PackedBatch, read: Readout) -> Iterator[list[dict[str, Any]]]:
    """Yield for every response the numbers of its own tokens, as plain Python."""
    columns = {name: getattr(read, name).tolist() for name in _NUMBERS}
    columns |= {name: _lists(getattr(read, name)) for name in ("likely", "ref_likely")}
    flat = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    cursor = 0
    for count in torch.bincount(batch.actions.responses.cpu(), minlength=batch.actions.shape[0]).tolist():
        yield flat[cursor : cursor + count]
        cursor += count


def _lists(candidates: Candidates) -> list[list[tuple[int, float, float]]]:
    tables: tuple[Tensor, ...] = (candidates.ids, candidates.logps, candidates.ref_logps)
    rows = zip(*(table.tolist() for table in tables), strict=True)
    return [list(zip(ids, logps, ref_logps, strict=True)) for ids, logps, ref_logps in rows]


def _trace(row: ScoredRow, which: int, numbers: list[dict[str, Any]], scoring: Scoring) -> TokenTrace:
    response, text = row.group.responses[which], row.texts[which]
    for number, value in zip(response.ids[response.mask].tolist(), numbers, strict=True):
        for model, name in (("policy", "logps"), ("reference", "ref_logps")):
            if not isfinite(value[name]):
                raise UserError(
                    f"{row.group.where}: the {model} gives {scoring.decode(number)!r} a log-prob of {value[name]}.",
                    "Half precision may overflow: try --dtype float32, or bfloat16 instead of float16.",
                )
    return assemble(row, which, list(_tokens(response, text, numbers, scoring)), scoring)


def assemble(
    row: ScoredRow, which: int, tokens: Sequence[TraceToken], scoring: Scoring, said: tuple[str, ...] = ()
) -> TokenTrace:
    """Return the trace of a response from its tokens.

    Args:
        row: the row.
        which: which of its responses.
        tokens: its tokens with their numbers.
        scoring: what all traces share.
        said: further warnings.
    """
    text = row.texts[which]
    side: Side | None = ("chosen", "rejected")[which] if row.group.is_pair else None
    given = row.example.responses[which]
    written = [token for token in tokens if token.written]

    def total(numbers: Iterable[float | None]) -> float | None:
        return sum((number or 0.0 for number in numbers), 0.0) if scoring.policy else None

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
        tokens=tuple(tokens),
        spans=tuple(span for cut in scoring.cuts for span in spans_of(cut, text.text, tokens, given)),
        totals=Totals(
            implicit_reward=total(token.implicit_reward for token in written),
            logp=total(token.logp for token in written),
            ref_logp=total(token.ref_logp for token in written),
            tokens=len(written),
        ),
        warnings=(*scoring.warnings, *row.warnings, *said),
        label=given.label,
        score=given.score,
    )


def _tokens(
    response: TokenResponse, text: ResponseText, numbers: list[dict[str, Any]], scoring: Scoring
) -> Iterator[TraceToken]:
    ends = text.ends.tolist()
    starts = [0, *ends[:-1]]
    said = iter(numbers)
    values = [next(said) if own else None for own in response.mask.tolist()]
    rewards = [scoring.beta * (v["logps"] - v["ref_logps"]) if v else 0.0 for v in values]
    places = zip(response.ids.tolist(), starts, ends, values, rewards, accumulate(rewards), strict=True)
    for number, start, end, value, reward, prefix in places:
        piece = text.text[start:end]
        if value is None:
            yield TraceToken(number, piece, start, end, written=False, prefix_value=prefix)
            continue
        likely, ref_likely = (_alternatives(value[name], scoring) for name in ("likely", "ref_likely"))
        together = {one.id: one for one in (*likely, *ref_likely)}
        favoured = sorted(together.values(), key=lambda one: -one.implicit_reward)[: len(likely)]
        yield TraceToken(
            id=number,
            text=piece,
            start=start,
            end=end,
            logp=value["logps"],
            ref_logp=value["ref_logps"],
            implicit_reward=reward,
            prefix_value=prefix,
            advantage=scoring.beta * value["logps"],
            centred_advantage=scoring.beta * (value["logps"] + value["entropies"]),
            rank=value["ranks"],
            ref_rank=value["ref_ranks"],
            entropy=value["entropies"],
            ref_entropy=value["ref_entropies"],
            kl=value["kls"] if isfinite(value["kls"]) else None,
            ref_kl=value["ref_kls"] if isfinite(value["ref_kls"]) else None,
            likely=likely,
            ref_likely=ref_likely,
            favoured=tuple(favoured),
        )


def _alternatives(candidates: list[tuple[int, float, float]], scoring: Scoring) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(number, scoring.decode(number), logp, ref_logp, scoring.beta * (logp - ref_logp))
        for number, logp, ref_logp in candidates
        if isfinite(logp) and isfinite(ref_logp)  # fewer than asked for: a token that one of them rules out
    )
