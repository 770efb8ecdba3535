"""Traces as tables of Arrow: a row a response, its tokens, alternatives and spans in columns of lists.

Numbers lie in a table as they lie in a trace, one behind the other; no token becomes an object on the way. A table says
its version in the column `schema`. docs/artefacts.md describes the columns.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tokenq.errors import UserError
from tokenq.records.trace_alternatives import Alternatives, no_alternatives
from tokenq.records.trace_records import LISTS, SPAN_COLUMNS, TOKEN_COLUMNS, Numbers
from tokenq.records.trace_tokens import Spans, Tokens
from tokenq.records.traces import Side, TokenTrace, Totals

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_SCHEMA = 4
"""Version of tables of traces; until 3 they held tokens as objects, as JSON lines still do."""

PLURALS = {"id": "token_ids", "written": "written", "entropy": "entropies", "ref_entropy": "ref_entropies"}
"""Columns of tokens that are not called after their field with an s."""

_POOL = ("alternative_ids", "alternative_texts", "alternative_logps", "alternative_ref_logps")
ALTERNATIVES = ("alternative_counts", *_POOL, *(f"{name}_{part}" for name in LISTS for part in ("counts", "places")))
_NO_OUTPUTS = np.zeros((0, 0))

_Column = Callable[[TokenTrace], Any]


def token_column(field: str) -> str:
    """Return the name of the column that holds a field of tokens."""
    return PLURALS.get(field, f"{field}s")


def span_column(field: str) -> str:
    """Return the name of the column that holds a field of spans."""
    return "span_tokens" if field == "tokens" else f"span_{field}s"


_NEEDED = ("id", "prompt", "response", "beta", "gauge", "terminal", "total_tokens", "warnings", "total_outputs")
"""What no row may lack."""


def _identity(model: Mapping[str, Any] | None) -> str | None:
    return json.dumps(dict(model), ensure_ascii=False) if model else None


_CELLS: Mapping[str, tuple[str, _Column]] = {
    "schema": ("int32", lambda _: TABLE_SCHEMA),
    "id": ("string", lambda trace: trace.id),
    "prompt": ("string", lambda trace: trace.prompt),
    "response": ("string", lambda trace: trace.response),
    "side": ("string", lambda trace: trace.side),
    "beta": ("double", lambda trace: trace.beta),
    "gauge": ("string", lambda trace: trace.gauge),
    "terminal": ("bool", lambda trace: trace.terminal),
    "policy": ("string", lambda trace: _identity(trace.policy)),
    "reference": ("string", lambda trace: _identity(trace.reference)),
    "reward_model": ("string", lambda trace: _identity(trace.reward_model)),
    "label": ("bool", lambda trace: trace.label),
    "score": ("double", lambda trace: trace.score),
    "total_implicit_reward": ("double", lambda trace: trace.totals.implicit_reward),
    "total_logp": ("double", lambda trace: trace.totals.logp),
    "total_ref_logp": ("double", lambda trace: trace.totals.ref_logp),
    "total_tokens": ("int64", lambda trace: trace.totals.tokens),
    "total_reward": ("double", lambda trace: trace.totals.reward),
    "warnings": ("list<string>", lambda trace: list(trace.warnings)),
    "total_outputs": ("list<double>", lambda trace: list(trace.totals.outputs)),
}
"""What a trace has once: the type of its column, and how it is read."""


def _field(name: str) -> _Column:
    return lambda trace: trace.tokens.columns[name]


def _span_field(name: str) -> _Column:
    return lambda trace: trace.spans.columns[name]


_KINDS = {np.float64: "double", np.int64: "int32", np.bool_: "bool", np.int8: "bool", np.str_: "string"}

_ARRAYS: Mapping[str, tuple[str, _Column]] = {
    **{token_column(name): (_KINDS[kind], _field(name)) for name, kind in TOKEN_COLUMNS.items()},
    "outputs": ("double", lambda trace: trace.tokens.outputs.ravel()),
    "alternative_counts": ("int32", lambda trace: trace.tokens.alternatives.counts),
    "alternative_ids": ("int32", lambda trace: trace.tokens.alternatives.ids),
    "alternative_texts": ("string", lambda trace: trace.tokens.alternatives.said),
    "alternative_logps": ("double", lambda trace: trace.tokens.alternatives.logps),
    "alternative_ref_logps": ("double", lambda trace: trace.tokens.alternatives.ref_logps),
    "likely_counts": ("int32", lambda trace: trace.tokens.alternatives.sizes["likely"]),
    "likely_places": ("int32", lambda trace: trace.tokens.alternatives.places["likely"]),
    "ref_likely_counts": ("int32", lambda trace: trace.tokens.alternatives.sizes["ref_likely"]),
    "ref_likely_places": ("int32", lambda trace: trace.tokens.alternatives.places["ref_likely"]),
    "favoured_counts": ("int32", lambda trace: trace.tokens.alternatives.sizes["favoured"]),
    "favoured_places": ("int32", lambda trace: trace.tokens.alternatives.places["favoured"]),
    **{span_column(name): (_KINDS[kind], _span_field(name)) for name, kind in SPAN_COLUMNS.items()},
}
"""What a trace has many of: the type of an item, and how the items are read."""

TEXTS = ["alternative_texts.list.element", "span_levels.list.element", "policy", "reference", "reward_model"]
"""Columns of few texts that come again and again."""


@cache
def schema() -> "pa.Schema":
    """Return the columns of a table and their types."""
    import pyarrow as pa

    cells = {name: pa.list_(pa.type_for_alias(kind[5:-1])) if "<" in kind else pa.type_for_alias(kind)
             for name, (kind, _) in _CELLS.items()}  # fmt: skip
    return pa.schema({**cells, **{name: pa.list_(pa.type_for_alias(kind)) for name, (kind, _) in _ARRAYS.items()}})


def batch_of(traces: Sequence[TokenTrace]) -> "pa.RecordBatch":
    """Return traces as rows."""
    import pyarrow as pa

    types = schema()
    columns = [
        pa.array([read(trace) for trace in traces], types.field(name).type) for name, (_, read) in _CELLS.items()
    ]
    for name, (_, read) in _ARRAYS.items():
        parts = [read(trace) for trace in traces]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
        flat = _flat(parts, types.field(name).type.value_type)
        columns.append(pa.ListArray.from_arrays(pa.array(ends), flat))
    return pa.RecordBatch.from_arrays(columns, schema=types)


def _flat(parts: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    """Return the items of all rows, those that are none as null."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.array([text for part in parts for text in part], kind)
    values = np.concatenate(parts) if parts else np.zeros(0)
    if values.dtype.kind == "f":
        return pa.array(values, kind, from_pandas=True)
    if values.dtype.kind == "i":
        none = values < 0
        known = values.astype(np.bool_ if pa.types.is_boolean(kind) else np.int32)
        return pa.array(known, kind, mask=none if none.any() else None)
    return pa.array(values, kind)


def traces_of(batch: "pa.RecordBatch", where: Callable[[int], str], *, alternatives: bool) -> Iterator[TokenTrace]:
    """Yield the traces of rows.

    Args:
        batch: rows.
        where: (place) → what a row is called in errors.
        alternatives: whether the table holds what could have stood at each token.

    Raises:
        UserError: a row is no trace.
    """
    held = {name: one for name, one in _ARRAYS.items() if alternatives or name not in ALTERNATIVES}
    lists = {name: _split(batch.column(name)) for name in held}
    cells = {name: batch.column(name).to_pylist() for name in _CELLS}
    for place in range(batch.num_rows):
        try:
            one = {name: column[place] for name, column in cells.items()}
            yield _trace(one, {name: column[place] for name, column in lists.items()})
        except (TypeError, ValueError, KeyError, IndexError) as problem:
            raise UserError(f"{where(place)} is no trace: {problem}.", "Score the data again.") from problem


def _split(column: "pa.ListArray") -> list[Any]:
    """Return the items of each row; −1 or NaN for null."""
    import pyarrow as pa

    flat, sizes = column.flatten(), column.value_lengths().fill_null(0).to_numpy()
    kind = flat.type
    if pa.types.is_string(kind):
        values: Any = flat.to_pylist()
    elif pa.types.is_boolean(kind) and flat.null_count:
        values = flat.cast("int8").fill_null(-1).to_numpy()
    elif pa.types.is_integer(kind):
        values = flat.fill_null(-1).to_numpy().astype(np.int64)
    else:
        values = flat.to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes).tolist()
    return [values[end - size : end] for size, end in zip(sizes.tolist(), ends, strict=True)]


def _trace(cells: dict[str, Any], lists: dict[str, Any]) -> TokenTrace:
    for name in _NEEDED:
        if cells[name] is None:
            raise ValueError(f"it has no {name!r}")
    if cells["side"] not in (None, "chosen", "rejected"):
        raise TypeError(f"'side' is {cells['side']!r}")
    columns = {name: lists[token_column(name)] for name in TOKEN_COLUMNS}
    count = len(columns["id"])
    if odd := [token_column(name) for name, column in columns.items() if len(column) != count]:
        raise ValueError(f"{odd[0]!r} has not one number a token")
    spans = {name: _typed(lists[span_column(name)], kind) for name, kind in SPAN_COLUMNS.items()}
    if len({len(column) for column in spans.values()}) > 1:
        raise ValueError("the columns of its spans are not of one length")
    totals = {name.removeprefix("total_"): value for name, value in cells.items() if name.startswith("total_")}
    outputs = lists["outputs"].reshape(count, -1) if count else _NO_OUTPUTS
    tokens = Tokens(cells["response"], columns, outputs, _alternatives(lists, cells["beta"], count))
    return TokenTrace(
        **{name: cells[name] for name in ("id", "prompt", "response", "beta", "gauge", "terminal", "label", "score")},
        side=cast("Side | None", cells["side"]),
        policy=json.loads(cells["policy"] or "{}"),
        reference=json.loads(cells["reference"] or "{}"),
        reward_model=None if cells["reward_model"] is None else json.loads(cells["reward_model"]),
        tokens=tokens,
        spans=Spans(spans),
        totals=Totals(**{**totals, "outputs": tuple(totals["outputs"])}),
        warnings=tuple(cells["warnings"]),
    )


def _typed(values: Any, kind: type) -> Numbers:
    return np.array(values, dtype=kind)


def _alternatives(lists: dict[str, Any], beta: float, count: int) -> Alternatives:
    if "alternative_counts" not in lists:
        return no_alternatives(beta, count)
    words: dict[str, int] = {}
    codes = [words.setdefault(text, len(words)) for text in lists["alternative_texts"]]
    made = Alternatives(
        beta,
        lists["alternative_counts"],
        lists["alternative_ids"],
        lists["alternative_logps"],
        lists["alternative_ref_logps"],
        np.array(codes, np.int64),
        list(words),
        {name: lists[f"{name}_counts"] for name in LISTS},
        {name: lists[f"{name}_places"] for name in LISTS},
    )
    if len(made.counts) != count or {len(lists[name]) for name in _POOL} != {int(made.counts.sum())}:
        raise ValueError("its alternatives are not as many as their counts")
    for name in LISTS:
        if len(made.sizes[name]) != count or int(made.sizes[name].sum()) != len(made.places[name]):
            raise ValueError(f"its lists of {name!r} are not one a token")
        if not ((made.places[name] >= 0) & (made.places[name] < np.repeat(made.counts, made.sizes[name]))).all():
            raise ValueError(f"its lists of {name!r} name others than its alternatives")
    return made
