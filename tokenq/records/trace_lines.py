"""Rows of traces as lines of JSON, an object a token: written by Arrow's kernels for text, a column at a time.

The bytes are those of Python's `json` on `TokenTrace.to_dict`. An alternative that stands in several lists of its token
is written once and put wherever it belongs.
"""

import json
from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenq.files import plain
from tokenq.records.schema import SCHEMA
from tokenq.records.trace_columns import span_column, token_column
from tokenq.records.trace_records import LISTS, SPAN_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

_TOKEN = (
    *("logp", "ref_logp", "implicit_reward", "prefix_value", "advantage", "centred_advantage", "rank", "ref_rank"),
    *("entropy", "ref_entropy", "kl", "ref_kl"),
)
_BEFORE = ("id", "prompt", "response", "side", "beta", "gauge", "terminal")


def lines_of(batch: "pa.RecordBatch") -> Iterator[bytes]:
    """Yield a line for each row of a table of traces."""
    import pyarrow.compute as pc

    tokens, spans = (
        [text.as_buffer().to_pybytes() for text in pc.binary_join(column, ", ")]
        for column in (_tokens(batch), _spans(batch))
    )
    cells = batch.select(
        [name for name, kind in zip(batch.schema.names, batch.schema.types, strict=True) if _single(kind)]
    )
    more = zip(cells.to_pylist(), batch["warnings"].to_pylist(), batch["total_outputs"].to_pylist(), strict=True)
    for place, (row, warnings, outputs) in enumerate(more):
        models = {name: json.loads(row[name] or "{}") for name in ("policy", "reference")}
        before = {"schema": SCHEMA, **{name: row[name] for name in _BEFORE}, **models}
        totals = {name: row[f"total_{name}"] for name in ("implicit_reward", "logp", "ref_logp", "tokens", "reward")}
        after = {
            "totals": {**totals, "outputs": outputs},
            "warnings": warnings,
            "label": row["label"],
            "score": row["score"],
            "reward_model": None if row["reward_model"] is None else json.loads(row["reward_model"]),
        }
        middle = b', "tokens": [' + tokens[place] + b'], "spans": [' + spans[place] + b"], "
        yield _json(before)[:-1] + middle + _json(after)[1:] + b"\n"


def _single(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return not pa.types.is_list(kind)


def _json(value: Any) -> bytes:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False).encode()


def _tokens(batch: "pa.RecordBatch") -> "pa.ListArray":
    """Return the tokens of each row as JSON."""
    import pyarrow as pa

    flat = {name: batch[token_column(name)].flatten() for name in ("id", "start", "end", "written", *_TOKEN, "reward")}
    pieces = [
        encode_basestring(text[start:end])
        for text, starts, ends in zip(
            batch["response"].to_pylist(), *(batch[token_column(n)].to_pylist() for n in ("start", "end")), strict=True
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    parts: dict[str, Any] = {"id": _whole(flat["id"]), "text": pa.array(pieces, pa.string())}
    parts |= {"start": _whole(flat["start"]), "end": _whole(flat["end"]), "written": _bool(flat["written"])}
    parts |= {name: (_whole if name in ("rank", "ref_rank") else _float)(flat[name]) for name in _TOKEN}
    parts |= _alternatives(batch)
    parts |= {"reward": _float(flat["reward"]), "outputs": _outputs(batch)}
    return pa.ListArray.from_arrays(batch["token_ids"].offsets, _object(parts))


def _spans(batch: "pa.RecordBatch") -> "pa.ListArray":
    """Return the spans of each row as JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    written = {np.float64: _float, np.int64: _whole, np.int8: _bool}
    parts = {
        name: written[kind](batch[span_column(name)].flatten())
        for name, kind in SPAN_COLUMNS.items()
        if kind in written
    }
    levels = pc.binary_join_element_wise('"', batch["span_levels"].flatten(), '"', "")
    return pa.ListArray.from_arrays(batch["span_levels"].offsets, _object({"level": levels, **parts}))


def _object(parts: dict[str, Any]) -> "pa.Array":
    """Return objects of JSON from the texts of their fields."""
    import pyarrow.compute as pc

    woven: list[Any] = []
    for name, texts in parts.items():
        woven += [f'{", " if woven else "{"}"{name}": ', texts]
    return pc.binary_join_element_wise(*woven, "}", "")


def _whole(numbers: "pa.Array") -> "pa.Array":
    import pyarrow.compute as pc

    return pc.fill_null(pc.cast(numbers, "string"), "null")


def _bool(values: "pa.Array") -> "pa.Array":
    import pyarrow.compute as pc

    return pc.fill_null(pc.cast(values, "string"), "null")


def _float(numbers: "pa.Array") -> "pa.Array":
    """Return floats as Python writes them; Arrow does, but for whole, very small and very large ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = numbers.to_numpy(zero_copy_only=False)
    known = np.isfinite(values)
    size = np.abs(values)
    odd = known & ((size < 1e-4) | (size >= 1e15) | (values == np.rint(values)))
    if not known.any():
        return pa.repeat(pa.scalar("null"), len(values))
    texts = pc.cast(numbers, "string")
    if odd.any():
        texts = pc.replace_with_mask(texts, pa.array(odd), pa.array(list(map(repr, values[odd].tolist())), pa.string()))
    return texts if known.all() else pc.if_else(pa.array(known), texts, "null")


def _alternatives(batch: "pa.RecordBatch") -> dict[str, Any]:
    """Return the lists of alternatives of each token as JSON, by name."""
    import pyarrow as pa

    logps, ref_logps = (batch[f"alternative_{name}"].flatten() for name in ("logps", "ref_logps"))
    sizes = batch["alternative_ids"].value_lengths().to_numpy()
    betas = np.repeat(batch["beta"].to_numpy(), sizes)
    rewards = pa.array(betas * (logps.to_numpy(zero_copy_only=False) - ref_logps.to_numpy(zero_copy_only=False)))
    known: dict[str, str] = {}
    texts = [
        known.get(text) or known.setdefault(text, encode_basestring(text))
        for text in batch["alternative_texts"].flatten().to_pylist()
    ]
    entries = _object(
        {
            "id": _whole(batch["alternative_ids"].flatten()),
            "text": pa.array(texts, pa.string()),
            "logp": _float(logps),
            "ref_logp": _float(ref_logps),
            "implicit_reward": _float(rewards),
        }
    )
    counts = batch["alternative_counts"].flatten().to_numpy()
    firsts = np.cumsum(counts) - counts
    found = {}
    for name in LISTS:
        own = batch[f"{name}_counts"].flatten().to_numpy()
        places = np.repeat(firsts, own) + batch[f"{name}_places"].flatten().to_numpy()
        found[name] = _listed(entries.take(pa.array(places)), own)
    return found


def _outputs(batch: "pa.RecordBatch") -> Any:
    """Return the outputs of a reward model at each token as JSON."""
    counts = batch["token_ids"].value_lengths().to_numpy()
    widths = batch["outputs"].value_lengths().to_numpy() // np.maximum(counts, 1)
    flat = batch["outputs"].flatten()
    if not len(flat):
        return "[]"
    sizes = np.repeat(widths, counts)
    known = flat.is_valid().to_numpy(zero_copy_only=False)
    held = known[np.minimum(np.cumsum(sizes) - sizes, len(known) - 1)]
    return _listed(_float(flat.drop_null()), np.where(held, sizes, 0))


def _listed(texts: "pa.Array", sizes: Any) -> "pa.Array":
    """Return lists of JSON of so many texts each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ends = np.cumsum(np.concatenate(([0], sizes)), dtype=np.int32)
    return pc.binary_join_element_wise(
        "[", pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), texts), ", "), "]", ""
    )
