"""What a reward model says of a response, token by token: its head is read at every token in one pass.

The number at a token is the reward of the response if it ended there, so the last one is the reward of the whole, the
one at the end of a step that of the steps so far, and differences say what a stretch has added.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenq.core.packing import at_own_state, every_token, pack, plan_pass
from tokenq.core.tensors import PackedBatch
from tokenq.records.traces import TokenTrace, TraceToken
from tokenq.score.spans import reward_at_end
from tokenq.score.trace import CHUNK, ScoredRow, Scoring, assemble


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
        yield [assemble(row, which, _bare(row, which), scoring) for which in range(len(row.texts))]


def _bare(row: ScoredRow, which: int) -> list[TraceToken]:
    response, text = row.group.responses[which], row.texts[which]
    ends = text.ends.tolist()
    places = zip(response.ids.tolist(), [0, *ends[:-1]], ends, response.mask.tolist(), strict=True)
    return [TraceToken(number, text.text[start:end], start, end, written=own) for number, start, end, own in places]


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
    """Yield for every row that is not done the outputs [n, A] at all tokens of each response."""
    for start in range(done // CHUNK * CHUNK, len(rows), CHUNK):
        groups = [at_own_state(row.group, every_token) for row in rows[start : start + CHUNK]]
        first = max(0, done - start)
        found: dict[int, list[Tensor]] = {}
        for places in plan_pass([group.n_tokens for group in groups], budget, first):
            batch = pack([groups[place] for place in places], places)
            with torch.no_grad():
                flat = reader.read(batch).double().cpu()
            counts = torch.bincount(batch.actions.responses.cpu(), minlength=batch.actions.shape[0]).tolist()
            for (place, _), values in zip(batch.actions.members, torch.split(flat, counts), strict=True):
                found.setdefault(place, []).append(values)
        yield from (found[place] for place in range(first, len(groups)))


def _rewarded(trace: TokenTrace, outputs: Tensor, reader: RewardReader) -> TokenTrace:
    rewards = (outputs @ outputs.new_tensor(reader.weights)).tolist()
    several = [tuple(row) for row in outputs.tolist()] if len(reader.outputs) > 1 else [()] * len(rewards)
    tokens = tuple(
        replace(token, reward=reward, outputs=own) if token.written else token
        for token, reward, own in zip(trace.tokens, rewards, several, strict=True)
    )
    spans = tuple(replace(span, reward=reward_at_end(tokens[span.first : span.last])) for span in trace.spans)
    totals = replace(trace.totals, reward=rewards[-1], outputs=several[-1])
    return replace(trace, tokens=tokens, spans=spans, totals=totals, reward_model=reader.described())
