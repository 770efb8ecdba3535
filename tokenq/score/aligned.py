"""Two models with different tokenizers: each reads its own tokens, credit goes to what is whole for both."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import TokenScorer
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup
from tokenq.records.trace_records import TraceToken
from tokenq.records.trace_tokens import tokens_of
from tokenq.records.traces import TokenTrace
from tokenq.score.align import Stretch, align
from tokenq.score.rows import CHUNK, ScoredRow, Scoring
from tokenq.score.trace import assemble

SAID = (
    "policy and reference have different tokenizers: credit is given to the stretches of text that are whole tokens "
    "for both, and there are no ranks, entropies or alternatives"
)
"""Warning of every such trace."""


def score_aligned(
    rows: Sequence[ScoredRow],
    others: Sequence[ScoredRow],
    scorers: tuple[TokenScorer, TokenScorer],
    scoring: Scoring,
    budget: int,
    done: int = 0,
) -> Iterator[list[TokenTrace]]:
    """Yield the traces of every row that is not done, in order; the sums are those of the two models by themselves.

    Args:
        rows: the rows in the policy's tokens.
        others: the same rows in the reference's tokens.
        scorers: policy and reference.
        scoring: what all traces share.
        budget: most tokens in one forward.
        done: rows at the beginning that are done already; the others meet in the batches of a whole pass.

    Raises:
        UserError: a row whose two tokenizations are not of the same text.
    """
    for start in range(done // CHUNK * CHUNK, len(rows), CHUNK):
        own, theirs = rows[start : start + CHUNK], others[start : start + CHUNK]
        first = max(0, done - start)
        own_logps, their_logps = (
            _logps([row.group for row in part], scorer, budget, first)
            for part, scorer in zip((own, theirs), scorers, strict=True)
        )
        rest = zip(own[first:], theirs[first:], own_logps[first:], their_logps[first:], strict=True)
        for row, other, a, b in rest:
            yield [_trace(row, other, which, (a[which], b[which]), scoring) for which in range(len(row.texts))]


def _logps(groups: Sequence[TokenGroup], scorer: TokenScorer, budget: int, first: int) -> list[list[np.ndarray]]:
    """Return [group][response] → log-probs of all its tokens, NaN where the policy did not write, or before `first`."""
    found: list[list[np.ndarray]] = [[np.full(len(r.ids), np.nan) for r in group.responses] for group in groups]
    for places in plan_pass([group.n_tokens for group in groups], budget, first):
        batch = pack([groups[place] for place in places], places)
        with torch.no_grad():
            flat = scorer(batch).double().cpu().numpy()
        owners, columns = batch.actions.responses.numpy(), batch.actions.places.numpy()
        for number, (place, which) in enumerate(batch.actions.members):
            mine = owners == number
            found[place][which][columns[mine]] = flat[mine]
    return found


def _trace(
    row: ScoredRow, other: ScoredRow, which: int, logps: tuple[np.ndarray, np.ndarray], scoring: Scoring
) -> TokenTrace:
    text, their_text = row.texts[which], other.texts[which]
    if text.text != their_text.text:
        raise UserError(
            f"{row.group.where}: the two tokenizers make different texts of this response.",
            "With different chat templates the models do not read the same text; give plain text, or one template.",
        )
    stretches = align(text.ends.tolist(), their_text.ends.tolist())
    ids = row.group.responses[which].ids.tolist()
    tokens = list(_tokens(text.text, stretches, ids, logps, scoring.beta))
    return assemble(row, which, tokens_of(tokens, text.text, scoring.beta), scoring, (SAID,))


def _tokens(
    text: str, stretches: Sequence[Stretch], ids: list[int], logps: tuple[np.ndarray, np.ndarray], beta: float
) -> Iterator[TraceToken]:
    prefix = 0.0
    for stretch in stretches:
        own, theirs = float(logps[0][slice(*stretch.own)].sum()), float(logps[1][slice(*stretch.other)].sum())
        first, last = stretch.own
        number, piece = (ids[first] if last - first == 1 else None), text[stretch.start : stretch.end]
        if np.isnan(own) or np.isnan(theirs):
            yield TraceToken(number, piece, stretch.start, stretch.end, written=False, prefix_value=prefix)
            continue
        reward = beta * (own - theirs)
        prefix += reward
        yield TraceToken(
            id=number,
            text=piece,
            start=stretch.start,
            end=stretch.end,
            logp=own,
            ref_logp=theirs,
            implicit_reward=reward,
            prefix_value=prefix,
            advantage=beta * own,
        )
