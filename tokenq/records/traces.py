"""Scored responses at rest: every token with what both models say about it, its place in the text, and its credit.

A trace is texts and columns of numbers; reports, metrics, servers and notebooks read traces and never tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args

import numpy as np

from tokenq.errors import UserError
from tokenq.records.schema import SCHEMA, built, built_many, check_schema, columns_of
from tokenq.records.trace_alternatives import alternatives_of
from tokenq.records.trace_records import LISTS, SPAN_COLUMNS, TOKEN_COLUMNS, Alternative, Span, TraceToken, column_of
from tokenq.records.trace_tokens import Spans, Tokens, spans_of_records, tokens_of

Side = Literal["chosen", "rejected"]

GAUGE = "normalised"
"""Logits are taken as log-probs, so that V = 0 and Q = A = β log π in every state (docs/theory.md)."""


@dataclass(frozen=True)
class Totals:
    """Sums over the tokens that the policy wrote; None where no policy has read them.

    Attributes:
        implicit_reward: the sequence reward, Σ β (log π − log π_ref).
        logp: log π(y|x).
        ref_logp: log π_ref(y|x).
        tokens: how many they are.
        reward: what a reward model says of the whole response, None without one.
        outputs: all of its outputs, where it has several.
    """

    implicit_reward: float | None
    logp: float | None
    ref_logp: float | None
    tokens: int
    reward: float | None = None
    outputs: tuple[float, ...] = ()

    def given(self, name: Literal["implicit_reward", "logp", "ref_logp"]) -> float:
        """Return one of the sums.

        Raises:
            UserError: the response was read by a reward model alone.
        """
        found: float | None = vars(self)[name]
        if found is None:
            raise UserError(
                "These traces hold what a reward model says, and no log-probs.", "Score the data with a --policy too."
            )
        return found


@dataclass(frozen=True)
class TokenTrace:
    """One scored response.

    Attributes:
        id: row of the data, and which of its responses: "17/chosen".
        prompt: the text before the response.
        response: its text, with the marks of a chat template where one was used.
        side: "chosen" or "rejected" in a pair, else None.
        beta: KL temperature.
        gauge: what the Q-reading takes V to be; see `GAUGE`.
        terminal: whether the response ends in EOS (False: it was cut).
        policy: identity of the policy, empty where none has read it.
        reference: identity of the reference, likewise.
        tokens: the tokens of the response.
        spans: stretches of it.
        totals: sums.
        warnings: what may be wrong with these numbers.
        label: what the data says of the response (desirable or not), or None.
        score: a rating that the data gives it, or None.
        reward_model: identity of a reward model with its `outputs` and what each weighs in the reward, or None.
    """

    id: str
    prompt: str
    response: str
    side: Side | None
    beta: float
    gauge: str
    terminal: bool
    policy: Mapping[str, Any]
    reference: Mapping[str, Any]
    tokens: Tokens
    spans: Spans
    totals: Totals
    warnings: tuple[str, ...] = ()
    label: bool | None = None
    score: float | None = None
    reward_model: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Take tokens and spans that are given as records into columns."""
        object.__setattr__(self, "tokens", tokens_of(self.tokens, self.response, self.beta))
        object.__setattr__(self, "spans", spans_of_records(self.spans))

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as JSON has it, its schema version first."""
        nested = {
            "policy": dict(self.policy),
            "reference": dict(self.reference),
            "tokens": [
                vars(token)
                | {name: [dict(vars(one)) for one in vars(token)[name]] for name in LISTS}
                | {"outputs": list(token.outputs)}
                for token in self.tokens
            ],
            "spans": [dict(vars(span)) for span in self.spans],
            "totals": {**vars(self.totals), "outputs": list(self.totals.outputs)},
            "warnings": list(self.warnings),
            "reward_model": None if self.reward_model is None else dict(self.reward_model),
        }
        return {"schema": SCHEMA, **vars(self), **nested}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "trace", *, alternatives: bool = True) -> "TokenTrace":
        """Return the trace of a JSON object.

        Args:
            record: what `to_dict` gave, perhaps by an older version.
            where: origin for error messages.
            alternatives: whether to keep what could have stood at each token, which is most of a trace.

        Raises:
            UserError: the object is of a newer schema, or is no trace.
        """
        check_schema(record, where, "trace", "tokenq score")
        try:
            if record["side"] not in (None, *get_args(Side)):
                raise TypeError(f"'side' is {record['side']!r}")
            return built(
                cls,
                {name: value for name, value in record.items() if name != "schema"},
                policy=dict(record["policy"] or {}),
                reference=dict(record["reference"] or {}),
                tokens=_tokens(record, alternatives),
                spans=_spans(record["spans"]),
                totals=built(Totals, record["totals"], outputs=tuple(record["totals"]["outputs"])),
                warnings=tuple(record["warnings"]),
                reward_model=None if record["reward_model"] is None else dict(record["reward_model"]),
            )
        except KeyError as problem:
            raise UserError(f"{where} is no trace: it has no {problem}.", "Score the data again.") from problem
        except (TypeError, ValueError, AttributeError) as problem:
            raise UserError(f"{where} is no trace: {problem}.", "Score the data again.") from problem


def _tokens(record: Mapping[str, Any], alternatives: bool) -> Tokens:
    """Return the tokens of a trace as JSON has it."""
    given = columns_of(TraceToken, record["tokens"], LISTS)
    columns = {name: column_of(given[name], kind) for name, kind in TOKEN_COLUMNS.items()}
    width, count = max(map(len, given["outputs"]), default=0), len(given["id"])
    outputs = np.array([one or [np.nan] * width for one in given["outputs"]], np.float64).reshape(count, width)
    lists: dict[str, list[Sequence[Alternative]]] = {name: [()] * count for name in LISTS}
    if alternatives:
        for name in LISTS:
            every = built_many(Alternative, [one for own in given[name] for one in own])
            ends = accumulate(map(len, given[name]), initial=0)
            lists[name] = [every[begin:end] for begin, end in pairwise(ends)]
    tokens = Tokens(record["response"], columns, outputs, alternatives_of(lists, record["beta"], count))
    odd = next((text for text, piece in zip(given["text"], tokens.texts(), strict=True) if text != piece), None)
    if odd is not None:
        raise ValueError(f"the text of a token, {odd[:80]!r}, is not its piece of the response")
    return tokens


def _spans(records: Any) -> Spans:
    """Return the spans of a trace as JSON has them."""
    given = columns_of(Span, records)
    return Spans({name: column_of(given[name], kind) for name, kind in SPAN_COLUMNS.items()})
