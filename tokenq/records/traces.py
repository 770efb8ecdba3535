"""Scored responses at rest: every token with what both models say about it, its place in the text, and its credit.

A trace is plain Python and JSON; reports, metrics, servers and notebooks read traces and never tensors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from tokenq.errors import UserError
from tokenq.files import write_json_lines, written_aside
from tokenq.records.schema import SCHEMA, built, built_columns, built_many, check_schema, json_lines, whole
from tokenq.records.trace_columns import LISTS, rows_of

Side = Literal["chosen", "rejected"]

GAUGE = "normalised"
"""Logits are taken as log-probs, so that V = 0 and Q = A = β log π in every state (docs/theory.md)."""


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood here.

    Attributes:
        id: token id.
        text: the token as text.
        logp: log π, in nats.
        ref_logp: log π_ref, in nats.
        implicit_reward: β (log π − log π_ref), in nats.
    """

    id: int
    text: str
    logp: float
    ref_logp: float
    implicit_reward: float


@dataclass(frozen=True)
class TraceToken:
    """One token of a response. Tokens that the policy did not write have no numbers (None).

    Attributes:
        id: token id; None for a stretch of several tokens (models with different tokenizers).
        text: its piece of the response; the pieces give the response back.
        start: first character of the piece in the response.
        end: one past its last character.
        written: whether the policy wrote it.
        logp: log π, in nats.
        ref_logp: log π_ref, in nats.
        implicit_reward: β (log π − log π_ref).
        prefix_value: sum of implicit rewards up to and including this token; carried over tokens not written.
        advantage: A = β log π.
        centred_advantage: β (log π + H(π)): against what the policy expects of itself.
        rank: tokens that the policy finds more likely here; 0 = it would have been its first choice.
        ref_rank: the same for the reference.
        entropy: H(π), in nats.
        ref_entropy: H(π_ref), in nats.
        kl: KL(π‖π_ref) at this position, in nats; None also where it is infinite.
        ref_kl: KL(π_ref‖π) at this position, in nats; None also where it is infinite.
        likely: the policy's most likely tokens, best first.
        ref_likely: the reference's most likely tokens, best first.
        favoured: of these two lists, the tokens with the highest implicit reward, best first.
        reward: what a reward model says of the response up to here, None without one.
        outputs: all of its outputs, where it has several.
    """

    id: int | None
    text: str
    start: int
    end: int
    written: bool = True
    logp: float | None = None
    ref_logp: float | None = None
    implicit_reward: float | None = None
    prefix_value: float | None = None
    advantage: float | None = None
    centred_advantage: float | None = None
    rank: int | None = None
    ref_rank: int | None = None
    entropy: float | None = None
    ref_entropy: float | None = None
    kl: float | None = None
    ref_kl: float | None = None
    likely: tuple[Alternative, ...] = ()
    ref_likely: tuple[Alternative, ...] = ()
    favoured: tuple[Alternative, ...] = ()
    reward: float | None = None
    outputs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Span:
    """A stretch of a response, with the credit of its tokens.

    A token belongs to the span in which its piece begins, one without a piece to that of the character before it. For
    value changes the sum is the number that means something:
    sums of spans that part a response add up to its sequence reward.

    Attributes:
        level: "word", "sentence", "line", "paragraph", "step", "turn", "regex" or "given".
        start: first character in the response.
        end: one past its last character.
        first: first token.
        last: one past its last token.
        tokens: tokens among these that the policy wrote.
        sum: Σ implicit rewards; the change of the prefix value over the span.
        mean: mean implicit reward, None without tokens.
        min: least implicit reward, None without tokens.
        final: implicit reward of its last token, None without tokens.
        end_value: prefix value at its end (the cumulative convention for steps).
        label: what the data says of it (a step's correctness), or None.
        reward: what a reward model says of the response up to its last token that the policy wrote, None without one.
    """

    level: str
    start: int
    end: int
    first: int
    last: int
    tokens: int
    sum: float
    mean: float | None
    min: float | None
    final: float | None
    end_value: float
    label: bool | None = None
    reward: float | None = None


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
    tokens: tuple[TraceToken, ...]
    spans: tuple[Span, ...]
    totals: Totals
    warnings: tuple[str, ...] = ()
    label: bool | None = None
    score: float | None = None
    reward_model: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as JSON has it, its schema version first."""
        nested = {
            "policy": dict(self.policy),
            "reference": dict(self.reference),
            "tokens": [
                {
                    **vars(token),
                    **{name: [dict(vars(one)) for one in vars(token)[name]] for name in LISTS},
                    "outputs": list(token.outputs),
                }
                for token in self.tokens
            ],
            "spans": [dict(vars(span)) for span in self.spans],
            "totals": {**vars(self.totals), "outputs": list(self.totals.outputs)},
            "warnings": list(self.warnings),
            "reward_model": None if self.reward_model is None else dict(self.reward_model),
        }
        return {"schema": SCHEMA, **vars(self), **nested}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "trace", most: int | None = None) -> "TokenTrace":
        """Return the trace of a JSON object.

        Args:
            record: what `to_dict` gave, perhaps by an older version.
            where: origin for error messages.
            most: alternatives to keep of each list, the first ones; None keeps all.

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
                tokens=_tokens(record["tokens"], most),
                spans=tuple(built(Span, span) for span in record["spans"]),
                totals=built(Totals, record["totals"], outputs=tuple(record["totals"]["outputs"])),
                warnings=tuple(record["warnings"]),
                reward_model=None if record["reward_model"] is None else dict(record["reward_model"]),
            )
        except KeyError as problem:
            raise UserError(f"{where} is no trace: it has no {problem}.", "Score the data again.") from problem
        except (TypeError, ValueError, AttributeError) as problem:
            raise UserError(f"{where} is no trace: {problem}.", "Score the data again.") from problem


def _tokens(given: Any, most: int | None) -> tuple[TraceToken, ...]:
    """Return the tokens of a trace, given as a list of objects or by columns."""
    if isinstance(given, Mapping):
        made: dict[str, list[Any]] = {
            name: _parted(built_columns(Alternative, *given[name][:1]), given[name][1]) for name in LISTS
        }
        return tuple(built_columns(TraceToken, {**given, **made, "outputs": [tuple(one) for one in given["outputs"]]}))
    lists = {name: [record[name][:most] for record in given] for name in LISTS}
    made = {
        name: _parted(built_many(Alternative, [one for part in parts for one in part]), list(map(len, parts)))
        for name, parts in lists.items()
    }
    return tuple(built_many(TraceToken, given, outputs=[tuple(record["outputs"]) for record in given], **made))


def _parted(every: Sequence[Alternative], sizes: Sequence[int]) -> list[tuple[Alternative, ...]]:
    """Return so many of them for each token."""
    ends = accumulate(sizes, initial=0)
    return [tuple(every[begin:end]) for begin, end in pairwise(ends)]


def write_traces(
    path: Path, traces: Iterable[Mapping[str, Any]], ready: Callable[[Path], None] = lambda _: None
) -> None:
    """Write traces (as `to_dict` gives them) to a `.jsonl` or `.parquet` file; see `written_aside`."""
    if path.suffix != ".parquet":
        write_json_lines(path, traces, ready)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with written_aside(path, ready) as aside:
        pq.write_table(pa.Table.from_pylist([_without_empty(trace) for trace in traces]), aside)


def _without_empty(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trace with null for the identity of a model that has not read it: Parquet has no empty objects."""
    return {**trace, "policy": trace["policy"] or None, "reference": trace["reference"] or None}


def read_traces(path: Path, most: int | None = None) -> Iterator[TokenTrace]:
    """Yield the traces of a `.jsonl` or `.parquet` file, one after the other: none is kept here.

    Args:
        path: the file.
        most: alternatives to keep of each list of a token, the first ones; None keeps all, which are most of a trace.

    Raises:
        UserError: there is no such file, or a line of it is no trace or of a newer schema.
    """
    if not path.is_file():
        raise UserError(f"No file {path}.", "Traces are written by tokenq score --output.")
    lines = rows_of(path, most) if path.suffix == ".parquet" else json_lines(path, "Score the data again.")
    yield from whole(path, (TokenTrace.from_dict(record, where, most) for where, record in lines))
