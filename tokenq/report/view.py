"""Traces to the data of a page: plain dicts and lists, by column, short numbers. No HTML, and no colour but its scale.

What is shown is decided here, how it looks in `tokenq/report/static`. Nothing is computed that a trace or a comparison
of traces does not hold already, except the sign under which a channel is coloured.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tokenq.errors import UserError
from tokenq.records.schema import SCHEMA
from tokenq.records.trace_alternatives import Alternatives, no_alternatives
from tokenq.records.trace_records import Numbers, without_none
from tokenq.records.trace_tokens import Spans
from tokenq.records.traces import Side, TokenTrace
from tokenq.report.channels import NEGATIVE, NUMBERS, POSITIVE, channels_by, is_read
from tokenq.score.compare import PairComparison, compare, gains_of, token_gains

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


def shortened(column: Numbers) -> list[float | int | None]:
    """Return a column of numbers as `short` does each, at a fraction of its time."""
    if column.dtype.kind != "f":
        return without_none(column)
    size = np.abs(column)
    usual = (size > 1e-17) & (size < 1e5)  # powers of ten that a float holds exactly, products without a fraction lost
    values = np.where(usual, column, 1.0)
    magnitude = np.log10(np.abs(values))
    scale = 10.0 ** np.maximum(4, 4 - np.floor(magnitude))
    scaled = values * scale
    rounded = np.rint(scaled) / scale
    found: list[float | int | None] = rounded.tolist()
    # Where rounding here might not be that of the decimal number itself, it is asked for by itself.
    doubtful = np.abs(np.abs(scaled - np.rint(scaled)) - 0.5) < 1e-5
    doubtful |= np.abs(magnitude - np.rint(magnitude)) < 1e-9
    for place in np.flatnonzero(~usual | doubtful | (rounded == np.rint(rounded))).tolist():
        found[place] = short(float(column[place]))
    return found


def page_parts(traces: Iterable[TokenTrace], title: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield everything that a page shows, part by part and each by its name, as JSON has it; no trace is kept.

    Args:
        traces: what to show. Traces "N/chosen" and "N/rejected" are a pair and share a row.
        title: of the page.

    Yields:
        "trace-0", … (tokens and spans by column), "pair-0", … (margin, where they part, what earns it), and at the end
        "index": `rows` (the list: name, traces, numbers to sort by), and what traces share: `models` and `vocabulary`,
        to which they refer by number.
    """
    shared, rows = _Shared(), _Rows()
    levels: dict[str, None] = {}
    for number, trace in enumerate(traces):
        levels |= dict.fromkeys(trace.spans.levels)
        yield f"trace-{number}", _trace(trace, shared)
        shared.meet(trace)
        compared = rows.add(_Member(number, _light(trace), _worst(trace)))
        if compared is not None:
            yield f"pair-{rows.pairs - 1}", _pair(compared)
    index = {
        "format": FORMAT,
        "schema": SCHEMA,
        "title": title,
        "numbers": list(NUMBERS),
        "channels": [asdict(channel) for channel in channels_by(list(shared.judges.values()), read=shared.read)],
        "palette": {"positive": list(POSITIVE), "negative": list(NEGATIVE)},
        "levels": ["token", *levels],
        "rows": rows.found,
        "models": [json.loads(model) for model in shared.models],
        "vocabulary": {"id": [one[0] for one in shared.words], "text": [one[1] for one in shared.words]},
    }
    yield "index", index


@dataclass
class _Shared:
    """What many traces have in common: written once, referred to by number."""

    models: dict[str, int] = field(default_factory=dict)
    words: dict[tuple[int, str], int] = field(default_factory=dict)
    judges: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    read: bool = False

    def model(self, identity: Mapping[str, Any]) -> int:
        return self.models.setdefault(json.dumps(dict(identity), sort_keys=True, default=str), len(self.models))

    def word(self, number: int, text: str) -> int:
        return self.words.setdefault((number, text), len(self.words))

    def meet(self, trace: TokenTrace) -> None:
        """Remember who has read a trace."""
        self.read = self.read or is_read(trace)
        if trace.reward_model is not None:
            self.judges[self.model(trace.reward_model)] = trace.reward_model


class _Member(NamedTuple):
    """A trace of a row: its number, itself without alternatives, and its worst number by level."""

    number: int
    trace: TokenTrace
    worst: Mapping[str, float]


@dataclass
class _Rows:
    """The entries of the list so far, how many pairs are among them, and sides whose other side is still to come."""

    found: list[dict[str, Any]] = field(default_factory=list)
    pairs: int = 0
    waiting: dict[tuple[str, Side], tuple[_Member, int]] = field(default_factory=dict)

    def add(self, one: _Member) -> PairComparison | None:
        """Give a trace its row, and return how it compares with the other side of a pair, once both are there."""
        name, side = _name(one.trace), one.trace.side
        if side is not None:
            met = self.waiting.pop((name, "rejected" if side == "chosen" else "chosen"), None)
            if met is not None:
                pair = (one, met[0]) if side == "chosen" else (met[0], one)
                compared = _compared(pair[0].trace, pair[1].trace)
                if compared is not None:
                    self.found[met[1]] = _row(pair, compared, self.pairs)
                    self.pairs += 1
                    return compared
            self.waiting[name, side] = one, len(self.found)
        self.found.append(_row([one], None, None))
        return None


def _light(trace: TokenTrace) -> TokenTrace:
    """Return a trace without its alternatives."""
    tokens = replace(trace.tokens, alternatives=no_alternatives(trace.beta, len(trace.tokens)))
    return replace(trace, tokens=tokens)


def _name(trace: TokenTrace) -> str:
    """Return the name of the row that a trace belongs to: its id, without the side of a pair."""
    return trace.id.removesuffix(f"/{trace.side}") if trace.side else trace.id


def _compared(chosen: TokenTrace, rejected: TokenTrace) -> PairComparison | None:
    """Return the comparison of a pair; None if rewards cannot be compared: other prompts, other models."""
    try:
        return compare(chosen, rejected)
    except UserError:
        return None


def _row(members: Sequence[_Member], compared: PairComparison | None, pair: int | None) -> dict[str, Any]:
    """Return an entry of the list: what it is called, and what it can be sorted by (rewards, where no policy read)."""
    first = members[0].trace
    worst: dict[str, float] = {}
    for one in members:
        for level, number in one.worst.items():
            worst[level] = min(worst.get(level, math.inf), number)
    return {
        "name": _name(first) if compared else first.id,
        "traces": [one.number for one in members],
        "pair": pair,
        "total": short(first.totals.implicit_reward if is_read(first) else first.totals.reward),
        "margin": short(compared.margin) if compared else None,
        "worst": {level: short(number) for level, number in worst.items()},
        "preview": " ".join(first.prompt[:200].split())[:80],
        "warnings": sum(len(one.trace.warnings) for one in members),
    }


def _worst(trace: TokenTrace) -> dict[str, float]:
    """Return the least value of a token and of the spans of each level."""
    token, span = ("implicit_reward", "sum") if is_read(trace) else ("reward", "reward")
    columns = {"token": trace.tokens.columns[token]}
    columns |= {level: trace.spans.of(level).columns[span] for level in trace.spans.levels}
    known = {level: column[~np.isnan(column)] for level, column in columns.items()}
    return {level: float(column.min()) for level, column in known.items() if len(column)}


def _trace(trace: TokenTrace, shared: _Shared) -> dict[str, Any]:
    tokens = trace.tokens
    columns: dict[str, list[Any]] = {
        "id": without_none(tokens.columns["id"]),
        "text": tokens.texts(),
        "start": tokens.columns["start"].tolist(),
        "end": tokens.columns["end"].tolist(),
        "written": tokens.written.astype(int).tolist(),
    }
    columns |= {name: shortened(tokens.columns[name]) for name in NUMBERS}
    columns["outputs"] = [
        [] if row and row[0] != row[0] else [short(number) for number in row] for row in tokens.outputs.tolist()
    ]
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
        "alternatives": _alternatives(tokens.alternatives, shared),
        "spans": {level: _spans(trace.spans.of(level)) for level in trace.spans.levels},
    }


def _alternatives(held: Alternatives, shared: _Shared) -> dict[str, list[Any]]:
    """Return the alternatives of all tokens, each once a token.

    `count` alternatives stand for each token in `word`, `logp` and `ref_logp`, those of the policy (`likely`, a number)
    first. The other lists are strings: character number c (less 48) is the c-th of them. Rewards follow from log-probs.
    """
    words, firsts, which = np.unique(np.stack((held.ids, held.words)), axis=1, return_index=True, return_inverse=True)
    numbers = np.zeros(len(firsts), np.int64)
    for place in np.argsort(firsts).tolist():  # in the order in which they come up
        numbers[place] = shared.word(int(words[0, place]), held.texts[words[1, place]])
    return {
        "count": held.counts.tolist(),
        "word": numbers[which].tolist(),
        "logp": shortened(held.logps),
        "ref_logp": shortened(held.ref_logps),
        "likely": held.sizes["likely"].tolist(),
        **{name: _lettered(held.places[name], held.sizes[name]) for name in ("ref_likely", "favoured")},
    }


def _lettered(places: Numbers, sizes: Numbers) -> list[str]:
    """Return a string for each token, a character for each place."""
    letters = "".join(map(chr, (places + 48).tolist()))
    ends = np.cumsum(sizes).tolist()
    return [letters[end - size : end] for size, end in zip(sizes.tolist(), ends, strict=True)]


def _spans(spans: Spans) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        name: spans.columns[name].tolist() for name in ("start", "end", "first", "last", "tokens")
    }
    labels = without_none(spans.columns["label"])
    columns["label"] = [None if label is None else bool(label) for label in labels]
    numbers = ("sum", "mean", "min", "final", "end_value", "reward")
    return columns | {name: shortened(spans.columns[name]) for name in numbers}


def _pair(compared: PairComparison) -> dict[str, Any]:
    """Return the common part of two responses, and for every level the contribution of each stretch to the margin."""
    earned: dict[str, dict[str, list[Any]]] = {}
    if is_read(compared.chosen):  # a reward model judges whole responses: no stretch earns its margin
        levels = dict.fromkeys((*compared.chosen.spans.levels, *compared.rejected.spans.levels))
        earned["token"] = _shares(token_gains(compared))
        earned |= {level: _shares(gains_of(compared, level)) for level in levels}
    return {
        "margin": short(compared.margin),
        "shared": compared.shared,
        "parts_at": compared.parts_at,
        "shares": earned,
    }


def _shares(gains: Sequence[tuple[Side, int, float]]) -> dict[str, list[Any]]:
    return {
        "side": [int(side == "rejected") for side, _, _ in gains],
        "unit": [unit for _, unit, _ in gains],
        "gain": shortened(np.array([gain for _, _, gain in gains], np.float64)),
    }
