"""What a reward model says of a response, token by token: its head is read at every token in one pass.

The number at a token is the reward of the response if it ended there, so the last one is the reward of the whole, the
one at the end of a step that of the steps so far, and differences say what a stretch has added.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from tokenq.core.packing import at_own_state, every_token
from tokenq.core.tensors import PackedBatch
from tokenq.records.trace_tokens import Spans
from tokenq.records.traces import TokenTrace
from tokenq.score.rows import ScoredRow, Scoring, each_response, own_slices
from tokenq.score.spans import rewards_at_end
from tokenq.score.trace import assemble, bare_tokens


@dataclass(frozen=True)
class RewardReader:
    """A reward model as scoring sees it.

    Attributes:
        read: (batch) → [N, A] its outputs at every target.
        outputs: what they are called.
        weights: what each weighs in the reward.
        identity: of the model.
    """

    read: Callable[[PackedBatch], Tensor]
    outputs: tuple[str, ...]
    weights: tuple[float, ...]
    identity: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """Return the reward model as a trace names it."""
        return {**self.identity, "outputs": list(self.outputs), "weights": list(self.weights)}


def bare_traces(rows: Sequence[ScoredRow], scoring: Scoring, done: int = 0) -> Iterator[list[TokenTrace]]:
    """Yield the traces of rows that no policy has read: texts, tokens and spans without numbers."""
    for row in rows[done:]:
        yield [assemble(row, which, bare_tokens(row, which, scoring.beta), scoring) for which in range(len(row.texts))]


def with_rewards(
    traces: Iterator[list[TokenTrace]], rows: Sequence[ScoredRow], reader: RewardReader, budget: int, done: int = 0
) -> Iterator[list[TokenTrace]]:
    """Yield the traces with what a reward model says of their tokens.

    Args:
        traces: of the rows that are not done, in order, in tokens that the reward model has too.
        rows: all rows.
        reader: the reward model.
        budget: most tokens in one forward.
        done: rows at the beginning that are done already.
    """
    for found, outputs in zip(traces, _outputs(rows, reader, budget, done), strict=True):
        yield [_rewarded(trace, one, reader) for trace, one in zip(found, outputs, strict=True)]


def _outputs(rows: Sequence[ScoredRow], reader: RewardReader, budget: int, done: int) -> Iterator[list[Tensor]]:
    """Return for every row that is not done the outputs [n, A] at all tokens of each response."""

    def read(batch: PackedBatch) -> Iterator[Tensor]:
        flat = reader.read(batch).double().cpu()
        return (flat[own] for own in own_slices(batch))

    return each_response(rows, read, budget, done, lambda row: at_own_state(row.group, every_token))


def _rewarded(trace: TokenTrace, outputs: Tensor, reader: RewardReader) -> TokenTrace:
    rewards = (outputs @ outputs.new_tensor(reader.weights)).numpy()
    several = outputs.numpy() if len(reader.outputs) > 1 else np.zeros((len(rewards), 0))
    totals = replace(trace.totals, reward=float(rewards[-1]), outputs=tuple(several[-1].tolist()))
    if not trace.tokens:  # totals alone
        return replace(trace, totals=totals, reward_model=reader.described())
    written = trace.tokens.written
    tokens = replace(
        trace.tokens,
        columns={**trace.tokens.columns, "reward": np.where(written, rewards, np.nan)},
        outputs=np.where(written[:, None], several, np.nan),
    )
    spans = trace.spans.columns
    ends = rewards_at_end(tokens, spans["first"], spans["last"])
    judged = Spans({**spans, "reward": ends})
    return replace(trace, tokens=tokens, spans=judged, totals=totals, reward_model=reader.described())
