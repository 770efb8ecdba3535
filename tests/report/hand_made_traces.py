"""Traces whose numbers were worked out by hand, and longer ones made by rule."""

from dataclasses import fields, replace
from itertools import accumulate

from tokenq.records.examples import Response
from tokenq.records.trace_records import Alternative, TraceToken
from tokenq.records.trace_tokens import tokens_of
from tokenq.records.traces import GAUGE, TokenTrace, Totals
from tokenq.score.spans import find_cut, spans_of, together

BETA = 0.5
ENTROPY = 0.25


def make_trace(name, pieces, logps, ref_logps, *, prompt="Where? ", side=None, levels=("word",), **given):
    """Return a trace of these pieces; a log-prob None is a token that the policy did not write."""
    rewards = [0.0 if logp is None else BETA * (logp - ref) for logp, ref in zip(logps, ref_logps, strict=True)]
    ends = list(accumulate(map(len, pieces)))
    places = zip(pieces, [0, *ends][:-1], ends, logps, ref_logps, rewards, accumulate(rewards), strict=True)
    response = "".join(pieces)
    tokens = tokens_of(tuple(_token(*place) for place in places), response, BETA)
    own = [token for token in tokens if token.written]
    fields = {
        "policy": {"path": "tuned", "dtype": "float32"},
        "reference": {"path": "base", "dtype": "float32"},
        "terminal": True,
    }
    return TokenTrace(
        **fields | given,
        id=f"{name}/{side}" if side else name,
        prompt=prompt,
        response=response,
        side=side,
        beta=BETA,
        gauge=GAUGE,
        tokens=tokens,
        spans=together([spans_of(find_cut(level), tokens, Response(response)) for level in levels]),
        totals=Totals(
            implicit_reward=sum(token.implicit_reward for token in own),
            logp=sum(token.logp for token in own),
            ref_logp=sum(token.ref_logp for token in own),
            tokens=len(own),
        ),
    )


def _token(text, start, end, logp, ref_logp, reward, prefix):
    number = 10 + sum(map(ord, text))
    if logp is None:
        return TraceToken(number, text, start, end, written=False, prefix_value=prefix)
    taken = Alternative(number, text, logp, ref_logp, reward)
    other = Alternative(7, " the", -1.5, -2.5, 0.5)
    third = Alternative(8, " a", -3.0, -1.0, -1.0)
    return TraceToken(
        id=number,
        text=text,
        start=start,
        end=end,
        logp=logp,
        ref_logp=ref_logp,
        implicit_reward=reward,
        prefix_value=prefix,
        advantage=BETA * logp,
        centred_advantage=BETA * (logp + ENTROPY),
        rank=0,
        ref_rank=3,
        entropy=ENTROPY,
        ref_entropy=0.75,
        kl=0.125,
        likely=(taken, other),
        ref_likely=(third, taken),
        favoured=(other, taken),
    )


def hand_made_pair(name="1"):
    """Return a pair; rewards 0, .1, .5, .1, 0 against 0, .1, −1, −.2, −.3: margin .7 − (−1.4) = 2.1."""
    chosen = make_trace(
        name,
        ["It", " is", " Paris", ".", ""],
        [-0.1, -0.2, -0.4, -0.1, -0.2],
        [-0.1, -0.4, -1.4, -0.3, -0.2],
        side="chosen",
        levels=("word", "sentence"),
    )
    rejected = make_trace(
        name,
        ["It", " is", " Rome", "!", ""],
        [-0.1, -0.2, -2.4, -1.0, -0.8],
        [-0.1, -0.4, -0.4, -0.6, -0.2],
        side="rejected",
        levels=("word", "sentence"),
    )
    return chosen, rejected


WEIGHTS = {"helpfulness": 1.0, "correctness": 2.0}

OUTPUTS = {
    "chosen": [(0.2, 0.0), (0.2, 0.1), (0.5, 0.5), (0.2, 0.5), (1.0, 0.5)],
    "rejected": [(0.2, 0.0), (0.2, 0.1), (0.0, -0.5), (0.5, -0.5), (0.5, -1.0)],
}
"""What a reward model says of the hand-made pair: rewards .2, .4, 1.5, 1.2, 2 against .2, .4, −1, −.5, −1.5."""


def judged(trace, outputs, weights=WEIGHTS):
    """Return a trace with what a reward model says at its tokens: one output a weight, None where none is written."""
    several = len(weights) > 1
    said = [None if one is None else sum(w * x for w, x in zip(weights.values(), one, strict=True)) for one in outputs]
    tokens = tuple(
        token if reward is None else replace(token, reward=reward, outputs=tuple(one) if several else ())
        for token, one, reward in zip(trace.tokens, outputs, said, strict=True)
    )
    ends = [[reward for reward in said[span.first : span.last] if reward is not None] for span in trace.spans]
    return replace(
        trace,
        tokens=tokens,
        spans=tuple(
            replace(span, reward=end[-1] if end else None) for span, end in zip(trace.spans, ends, strict=True)
        ),
        totals=replace(trace.totals, reward=said[-1], outputs=tokens[-1].outputs),
        reward_model={"path": "judge", "outputs": list(weights), "weights": list(weights.values())},
    )


def without_policy(trace):
    """Return a trace as a reward model leaves it that has read alone."""
    kept = {"id", "text", "start", "end", "written", "reward", "outputs"}
    lost = {field.name: field.default for field in fields(TraceToken) if field.name not in kept}
    return replace(
        trace,
        policy={},
        reference={},
        tokens=tuple(replace(token, **lost) for token in trace.tokens),
        spans=tuple(replace(span, sum=0.0, mean=None, min=None, final=None, end_value=0.0) for span in trace.spans),
        totals=replace(trace.totals, implicit_reward=None, logp=None, ref_logp=None),
    )


def judged_pair(name="1"):
    """Return the hand-made pair with what the reward model says: margin 2 − (−1.5) = 3.5."""
    return tuple(judged(trace, OUTPUTS[trace.side]) for trace in hand_made_pair(name))


def long_trace(name="long", tokens=5000, **given):
    """Return a trace of many tokens, in lines; token number 1234 (from 0) is by far the most negative."""
    pieces = [f" w{number}" if number % 20 else f"\nw{number}" for number in range(tokens)]
    logps = [-0.5 - (number * 37 % 100) / 50 for number in range(tokens)]
    ref_logps = [-0.5 - (number * 53 % 100) / 50 for number in range(tokens)]
    if tokens > 1234:
        logps[1234], ref_logps[1234] = -30.0, -1.0
    return make_trace(name, pieces, logps, ref_logps, levels=("word", "line"), **given)


HOSTILE = (
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "<!-- <script>",
    "]]>&amp;\u2028\u2029",
    "'\"`${1}{{7*7}}",
)
"""What must be shown and never run."""

FOREIGN = ("🙂👩‍👩‍👧", "שלום ", "עולם\n", "مرحبا", "\t\u200b", "\n\n", "日本語", "\u202eabc", "e\u0301", "\ud800")
"""Emoji of several code points, right to left, invisible characters, composed ones, half a surrogate pair."""


def hostile_trace(name="<b>1</b>"):
    """Return a trace of texts that try to break out of a page, or are hard to show."""
    pieces = [*HOSTILE, *FOREIGN, ""]
    count = len(pieces)
    return make_trace(
        name,
        pieces,
        [-1.0] * count,
        [-0.5] * count,
        prompt="".join(HOSTILE),
        policy={"path": HOSTILE[1]},
        reference={"path": HOSTILE[0]},
        warnings=HOSTILE,
    )
