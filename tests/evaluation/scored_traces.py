"""Traces of two tiny models with a vocabulary of a few tokens, every number from its definition."""

from itertools import accumulate

import numpy as np

from tokenq.records.trace_records import Alternative, Span, TraceToken
from tokenq.records.traces import GAUGE, TokenTrace, Totals

BETA = 0.5


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def make_trace(name, pieces, *, taken=None, written=None, logits=None, steps=(), labels=None, kept=2, prompt="Q? "):
    """Return a trace of pieces; `steps` are (first, last) tokens, `labels` their correctness.

    Args:
        name: of the trace.
        pieces: texts of its tokens.
        taken: token ids, 0 everywhere by default.
        written: whether the policy wrote each token.
        logits: (policy's, reference's), [tokens, vocabulary] each; drawn from the name's length by default.
        steps: steps, as (first, last) token.
        labels: their labels.
        kept: alternatives of each model.
        prompt: its prompt.
    """
    rng = np.random.default_rng(len(name))
    policy, reference = map(log_softmax, logits or rng.normal(size=(2, len(pieces), 5)))
    ends = list(accumulate(map(len, pieces)))
    tokens, value = [], 0.0
    for t, (piece, end) in enumerate(zip(pieces, ends, strict=True)):
        place = {"id": 0, "text": piece, "start": end - len(piece), "end": end}
        if written is not None and not written[t]:
            tokens.append(TraceToken(**place, written=False, prefix_value=value))
            continue
        token = 0 if taken is None else taken[t]
        value += BETA * (policy[t, token] - reference[t, token])
        tokens.append(_token(place | {"id": token}, policy[t], reference[t], value, kept))
    own = [token for token in tokens if token.written]
    return TokenTrace(
        id=name,
        prompt=prompt,
        response="".join(pieces),
        side=None,
        beta=BETA,
        gauge=GAUGE,
        terminal=True,
        policy={},
        reference={},
        tokens=tuple(tokens),
        spans=tuple(
            _step(tokens, first, last, None if labels is None else labels[i]) for i, (first, last) in enumerate(steps)
        ),
        totals=Totals(
            implicit_reward=sum((token.implicit_reward for token in own), 0.0),
            logp=sum((token.logp for token in own), 0.0),
            ref_logp=sum((token.ref_logp for token in own), 0.0),
            tokens=len(own),
        ),
    )


def _token(place, policy, reference, value, kept):
    gap, token = policy - reference, place["id"]
    likely, ref_likely = np.argsort(-policy)[:kept], np.argsort(-reference)[:kept]
    union = sorted({*likely.tolist(), *ref_likely.tolist()}, key=lambda v: -gap[v])[:kept]

    def alternatives(ids):
        return tuple(Alternative(int(v), str(v), policy[v], reference[v], BETA * gap[v]) for v in ids)

    return TraceToken(
        **place,
        logp=policy[token],
        ref_logp=reference[token],
        implicit_reward=BETA * gap[token],
        prefix_value=value,
        advantage=BETA * policy[token],
        centred_advantage=BETA * (policy[token] - (np.exp(policy) * policy).sum()),
        rank=int((policy > policy[token]).sum()),
        ref_rank=int((reference > reference[token]).sum()),
        entropy=-(np.exp(policy) * policy).sum(),
        ref_entropy=-(np.exp(reference) * reference).sum(),
        kl=(np.exp(policy) * gap).sum(),
        ref_kl=-(np.exp(reference) * gap).sum(),
        likely=alternatives(likely),
        ref_likely=alternatives(ref_likely),
        favoured=alternatives(union),
    )


def _step(tokens, first, last, label):
    rewards = [token.implicit_reward for token in tokens[first:last] if token.written]
    return Span(
        level="step",
        start=tokens[first].start,
        end=tokens[last - 1].end,
        first=first,
        last=last,
        tokens=len(rewards),
        sum=sum(rewards, 0.0),
        mean=sum(rewards) / len(rewards) if rewards else None,
        min=min(rewards, default=None),
        final=rewards[-1] if rewards else None,
        end_value=tokens[last - 1].prefix_value,
        label=label,
    )
