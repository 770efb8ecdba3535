"""Traces and candidates in the terminal: texts with the numbers that belong to them."""

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tokenq.records.results import SearchResult
from tokenq.records.trace_records import TraceToken
from tokenq.records.trace_tokens import SEGMENT_LEVEL
from tokenq.records.traces import TokenTrace

_NEGATIVE, _POSITIVE = (178, 60, 20), (20, 90, 170)
"""Orange for tokens that the training made less likely, blue for those made more likely: told apart by everyone."""


def coloured(trace: TokenTrace) -> Text:
    """Return the response, each token on a ground as deep as its implicit reward is far from 0."""
    scale = max((abs(token.implicit_reward or 0.0) for token in trace.tokens), default=0.0) or 1.0
    text = Text()
    for token in trace.tokens:
        text.append(token.text, style=_ground((token.implicit_reward or 0.0) / scale))
    return text


def _ground(share: float) -> Style:
    """Return the style of a token, for its share of the largest reward in −1 … 1."""
    if abs(share) < 0.05:
        return Style()
    red, green, blue = (round(channel * abs(share)) for channel in (_POSITIVE if share > 0 else _NEGATIVE))
    return Style(bgcolor=f"rgb({red},{green},{blue})", color="white")


def numbers(trace: TokenTrace, worst: int = 5) -> Table:
    """Return the tokens of the least implicit reward, with what would have been favoured instead."""
    table = Table("token", "at", "implicit reward", "log π", "log π_ref", "favoured", title="most negative tokens")
    for token in sorted((token for token in trace.tokens if token.written), key=_reward)[:worst]:
        better = token.favoured[0] if token.favoured else None
        favoured = f"{better.text!r} ({better.implicit_reward:+.3f})" if better else ""
        figures = (f"{number:+.3f}" for number in (_reward(token), token.logp or 0.0, token.ref_logp or 0.0))
        table.add_row(repr(token.text), str(token.start), *figures, favoured)
    return table


def _reward(token: TraceToken) -> float:
    return token.implicit_reward or 0.0


def card(trace: TokenTrace) -> RenderableType:
    """Return the coloured text, its totals and its most negative tokens."""
    said = [Text(f"note: {warning}", style="dim") for warning in trace.warnings]
    if not trace.policy:
        return Group(Text(trace.response), Text(), Text(_rewards(trace)), *said)
    totals = trace.totals
    line = (
        f"implicit reward {totals.implicit_reward:+.3f} (β = {trace.beta:g}), log π {totals.logp:.2f}, "
        f"log π_ref {totals.ref_logp:.2f}, {totals.tokens} tokens"
    )
    split = [
        Text(f"{level}: implicit reward {sums.sum():+.3f}, {int(own.columns['tokens'].sum())} tokens")
        for level in trace.spans.levels
        if level.startswith(SEGMENT_LEVEL) and len(sums := (own := trace.spans.of(level)).columns["sum"])
    ]
    judged = [Text(_rewards(trace))] if trace.reward_model else []
    return Group(coloured(trace), Text(), Text(line), *split, *judged, *said, numbers(trace))


def _rewards(trace: TokenTrace) -> str:
    """Return a reward model's reward of the whole response."""
    totals, names = trace.totals, (trace.reward_model or {})["outputs"]
    parts = ", ".join(f"{name} {number:+.3f}" for name, number in zip(names, totals.outputs, strict=False))
    return f"reward {totals.reward:+.3f}" + (f" ({parts})" if parts else "")


def candidates(result: SearchResult, most: int = 10) -> RenderableType:
    """Return the candidates of a search, best first, with what they are ranked by and what the search cost."""
    table = Table("", "score", "log π", "log π_ref", "tokens", "response", title=f"{result.method}, {result.objective}")
    for rank, one in enumerate(result.candidates[:most], 1):
        ref = "" if one.ref_logps is None else f"{sum(one.ref_logps):.2f}"
        cut = "" if one.terminal else " (cut)"
        text = Text(one.text if one.answer is None else f"{one.text}\n→ {one.answer}")
        table.add_row(str(rank), f"{one.score:.4f}", f"{sum(one.logps):.2f}", ref, f"{len(one.token_ids)}{cut}", text)
    cost = result.cost
    line = f"{cost.policy_tokens} tokens through the policy, {cost.reference_tokens} through the reference, "
    stopped = [Text(f"stopped by: {result.stopped}", style="dim")] if result.stopped else []
    return Group(table, Text(f"{line}{cost.seconds:.1f} s, peak memory {cost.peak_memory / 1e9:.2f} GB"), *stopped)
