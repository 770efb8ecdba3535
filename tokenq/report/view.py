"""Traces to the data of a page: plain dicts and lists, by column, short numbers. No HTML, and no colour but its scale.

What is shown is decided here, how it looks in `tokenq/report/static`. Nothing is computed that a trace or a comparison
of traces does not hold already, except the sign under which a channel is coloured.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any

from tokenq.errors import UserError
from tokenq.records.schema import SCHEMA
from tokenq.records.trace_records import Alternative, Span, TraceToken
from tokenq.records.traces import Side, TokenTrace
from tokenq.report.channels import NEGATIVE, NUMBERS, POSITIVE, READ, channels_of, is_read
from tokenq.score.compare import PairComparison, compare

FORMAT = 1
"""Version of the page data; the page and its data always come together."""


def short(number: float | None) -> float | int | None:
    """Return a number with four decimals, or five digits where that is more; None for what is not finite."""
    if number is None or not math.isfinite(number):
        return None
    if number == 0:
        return 0
    rounded = round(number, max(4, 4 - math.floor(math.log10(abs(number)))))
    return int(rounded) if rounded == int(rounded) else rounded


def page_data(traces: Sequence[TokenTrace], title: str) -> dict[str, Any]:
    """Return everything that a page shows, as JSON has it.

    Args:
        traces: what to show. Traces "N/chosen" and "N/rejected" are a pair and share a row.
        title: of the page.

    Returns:
        `rows` (the list: name, traces, numbers to sort by), `traces` (one dict each, tokens and spans by column),
        `pairs` (margin, where they part, what earns it), and what traces share: `models` and `vocabulary`, to which
        they refer by number.
    """
    shared = _Shared()
    places = _rows(traces)
    pairs = [(place, compared) for place, compared in places if compared is not None]
    numbers = {place: number for number, (place, _) in enumerate(pairs)}
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "title": title,
        "numbers": list(NUMBERS),
        "channels": [asdict(channel) for channel in channels_of(traces)],
        "palette": {"positive": list(POSITIVE), "negative": list(NEGATIVE)},
        "levels": ["token", *dict.fromkeys(span.level for trace in traces for span in trace.spans)],
        "rows": [_row([traces[i] for i in place], place, compared, numbers.get(place)) for place, compared in places],
        "traces": [_trace(trace, shared) for trace in traces],
        "pairs": [_pair(compared) for _, compared in pairs],
        "models": [json.loads(model) for model in shared.models],
        "vocabulary": {"id": [one[0] for one in shared.words], "text": [one[1] for one in shared.words]},
    }


@dataclass(frozen=True)
class _Shared:
    """What many traces have in common: written once, referred to by number."""

    models: dict[str, int] = field(default_factory=dict)
    words: dict[tuple[int, str], int] = field(default_factory=dict)

    def model(self, identity: Mapping[str, Any]) -> int:
        return self.models.setdefault(json.dumps(dict(identity), sort_keys=True, default=str), len(self.models))

    def word(self, one: Alternative) -> int:
        return self.words.setdefault((one.id, one.text), len(self.words))


def _rows(traces: Sequence[TokenTrace]) -> list[tuple[tuple[int, ...], PairComparison | None]]:
    """Return the traces of every row, as (chosen, rejected) where two are a pair, in the order of the traces."""
    rows: list[tuple[tuple[int, ...], PairComparison | None]] = []
    waiting: dict[tuple[str, Side], int] = {}
    for number, trace in enumerate(traces):
        name, side = _name(trace), trace.side
        if side is not None:
            place = waiting.pop((name, "rejected" if side == "chosen" else "chosen"), None)
            if place is not None:
                other = rows[place][0][0]
                pair = (number, other) if side == "chosen" else (other, number)
                compared = _compared(traces[pair[0]], traces[pair[1]])
                if compared is not None:
                    rows[place] = (pair, compared)
                    continue
            waiting[name, side] = len(rows)
        rows.append(((number,), None))
    return rows


def _name(trace: TokenTrace) -> str:
    """Return the name of the row that a trace belongs to: its id, without the side of a pair."""
    return trace.id.removesuffix(f"/{trace.side}") if trace.side else trace.id


def _compared(chosen: TokenTrace, rejected: TokenTrace) -> PairComparison | None:
    """Return the comparison of a pair; None if rewards cannot be compared: other prompts, other models."""
    try:
        return compare(chosen, rejected)
    except UserError:
        return None


def _row(
    members: Sequence[TokenTrace], places: tuple[int, ...], compared: PairComparison | None, pair: int | None
) -> dict[str, Any]:
    """Return an entry of the list: what it is called, and what it can be sorted by (rewards, where no policy read)."""
    first = members[0]
    worst: dict[str, float] = {}
    for trace in members:
        for level, number in _worth(trace):
            if number is not None:
                worst[level] = min(worst.get(level, math.inf), number)
    return {
        "name": _name(first) if compared else first.id,
        "traces": list(places),
        "pair": pair,
        "total": short(first.totals.implicit_reward if is_read(first) else first.totals.reward),
        "margin": short(compared.margin) if compared else None,
        "worst": {level: short(number) for level, number in worst.items()},
        "preview": " ".join(first.prompt[:200].split())[:80],
        "warnings": sum(len(trace.warnings) for trace in members),
    }


def _worth(trace: TokenTrace) -> list[tuple[str, float | None]]:
    """Return the value of each token and each span of a response, with its level."""
    if is_read(trace):
        return [
            *(("token", token.implicit_reward) for token in trace.tokens),
            *((span.level, span.sum) for span in trace.spans),
        ]
    return [*(("token", token.reward) for token in trace.tokens), *((span.level, span.reward) for span in trace.spans)]


def _trace(trace: TokenTrace, shared: _Shared) -> dict[str, Any]:
    tokens = trace.tokens
    columns: dict[str, list[Any]] = {
        "id": [token.id for token in tokens],
        "text": [token.text for token in tokens],
        "start": [token.start for token in tokens],
        "end": [token.end for token in tokens],
        "written": [int(token.written) for token in tokens],
    }
    columns |= {name: [short(read(token)) for token in tokens] for name, read in READ.items()}
    columns["outputs"] = [[short(number) for number in token.outputs] for token in tokens]
    sums = {name: short(number) for name, number in vars(trace.totals).items() if name != "outputs"}
    totals = {**sums, "outputs": [short(number) for number in trace.totals.outputs]}
    return {
        "id": trace.id,
        "prompt": trace.prompt,
        "side": trace.side,
        "beta": trace.beta,
        "gauge": trace.gauge,
        "terminal": trace.terminal,
        "policy": shared.model(trace.policy),
        "reference": shared.model(trace.reference),
        "label": trace.label,
        "score": short(trace.score),
        "warnings": list(trace.warnings),
        "totals": totals,
        "tokens": columns,
        "reward_model": None if trace.reward_model is None else shared.model(trace.reward_model),
        "alternatives": _alternatives(tokens, shared),
        "spans": {level: _spans(spans) for level, spans in _by_level(trace).items()},
    }


def _alternatives(tokens: Sequence[TraceToken], shared: _Shared) -> dict[str, list[Any]]:
    """Return the alternatives of all tokens, each once a token.

    `count` alternatives stand for each token in `word`, `logp` and `ref_logp`, those of the policy (`likely`, a number)
    first. The other lists are strings: character number c (less 48) is the c-th of them. Rewards follow from log-probs.
    """
    found: dict[str, list[Any]] = {
        name: [] for name in ("count", "word", "logp", "ref_logp", "likely", "ref_likely", "favoured")
    }
    for token in tokens:
        together = {one.id: one for one in (*token.likely, *token.ref_likely, *token.favoured)}
        order = {number: place for place, number in enumerate(together)}
        found["count"].append(len(together))
        found["likely"].append(len(token.likely))
        for name, chosen in (("ref_likely", token.ref_likely), ("favoured", token.favoured)):
            found[name].append("".join(chr(48 + order[one.id]) for one in chosen))
        for one in together.values():
            found["word"].append(shared.word(one))
            found["logp"].append(short(one.logp))
            found["ref_logp"].append(short(one.ref_logp))
    return found


def _by_level(trace: TokenTrace) -> dict[str, list[Span]]:
    levels: dict[str, list[Span]] = {}
    for span in trace.spans:
        levels.setdefault(span.level, []).append(span)
    return levels


def _spans(spans: Sequence[Span]) -> dict[str, list[Any]]:
    whole = ("start", "end", "first", "last", "tokens", "label")
    numbers = ("sum", "mean", "min", "final", "end_value", "reward")
    columns = {name: [attrgetter(name)(span) for span in spans] for name in whole}
    return columns | {name: [short(attrgetter(name)(span)) for span in spans] for name in numbers}


def _pair(compared: PairComparison) -> dict[str, Any]:
    """Return the common part of two responses, and for every level the contribution of each stretch to the margin."""
    sides = {"chosen": 0, "rejected": 1}
    levels = {side: _by_level(trace) for side, trace in (("chosen", compared.chosen), ("rejected", compared.rejected))}
    read = is_read(compared.chosen)  # a reward model judges whole responses: no stretch earns its margin
    earned: dict[str, dict[str, list[Any]]] = {"token": _token_shares(compared)} if read else {}
    for level in dict.fromkeys((*levels["chosen"], *levels["rejected"])) if read else ():
        found = compare(compared.chosen, compared.rejected, level).shares
        numbers = {side: {span: i for i, span in enumerate(levels[side].get(level, ()))} for side in sides}
        earned[level] = {
            "side": [sides[one.side] for one in found],
            "unit": [numbers[one.side][one.span] for one in found],
            "gain": [short(one.gain) for one in found],
        }
    return {
        "margin": short(compared.margin),
        "shared": compared.shared,
        "parts_at": compared.parts_at,
        "shares": earned,
    }


def _token_shares(compared: PairComparison) -> dict[str, list[Any]]:
    """Return the contributions to the margin of the tokens behind the shared ones, largest first."""
    found = [
        (side, number, sign * token.implicit_reward)
        for side, sign, trace in ((0, 1, compared.chosen), (1, -1, compared.rejected))
        for number, token in enumerate(trace.tokens)
        if number >= compared.shared and token.implicit_reward is not None
    ]
    found.sort(key=lambda one: -one[2])
    return {
        "side": [one[0] for one in found],
        "unit": [one[1] for one in found],
        "gain": [short(one[2]) for one in found],
    }
