"""Tokens and traces written by hand, for the tests of what reads them."""

from itertools import accumulate

from tokenq.records.trace_records import Span, TraceToken
from tokenq.records.traces import TokenTrace, Totals


def make_tokens(*pieces):
    """Return tokens from (piece, implicit reward), or (piece, None) for one that the policy did not write.

    The id is that of the piece's text; a third entry overrides it.
    """
    ends = list(accumulate(len(piece[0]) for piece in pieces))
    values = list(accumulate(piece[1] or 0.0 for piece in pieces))
    return tuple(
        TraceToken(
            id=piece[2] if len(piece) > 2 else sum(map(ord, piece[0])),
            text=piece[0],
            start=end - len(piece[0]),
            end=end,
            written=piece[1] is not None,
            implicit_reward=piece[1],
            prefix_value=value,
        )
        for piece, end, value in zip(pieces, ends, values, strict=True)
    )


def make_trace(*pieces, side=None, prompt="Q?", name="row 1", levels=(), **more):
    """Return a trace of tokens from (piece, implicit reward), with spans from (level, first token, stop)."""
    tokens = make_tokens(*pieces)
    written = [token.implicit_reward for token in tokens if token.written]
    spans = []
    for level, first, last in levels:
        inside = [token.implicit_reward for token in tokens[first:last] if token.written]
        spans.append(
            Span(
                level=level,
                start=tokens[first].start,
                end=tokens[last - 1].end,
                first=first,
                last=last,
                tokens=len(inside),
                sum=sum(inside, 0.0),
                mean=sum(inside) / len(inside) if inside else None,
                min=min(inside) if inside else None,
                final=inside[-1] if inside else None,
                end_value=tokens[last - 1].prefix_value,
            )
        )
    fields = {
        "id": f"{name}/{side}" if side else name,
        "prompt": prompt,
        "response": "".join(token.text for token in tokens),
        "side": side,
        "beta": 0.1,
        "gauge": "normalised",
        "terminal": True,
        "policy": {"path": "p"},
        "reference": {"path": "r"},
        "tokens": tokens,
        "spans": tuple(spans),
        "totals": Totals(sum(written, 0.0), -1.0, -2.0, len(written)),
    }
    return TokenTrace(**{**fields, **more})
