"""What a colour can stand for: the implicit reward, and the baselines that it is to be read against.

One table for the page, the notebook and figures, so that none of them shows a map without its caption.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from tokenq.errors import unknown_name
from tokenq.records.trace_records import TraceToken
from tokenq.records.traces import TokenTrace

NUMBERS = (
    "logp",
    "ref_logp",
    "implicit_reward",
    "prefix_value",
    "advantage",
    "centred_advantage",
    "rank",
    "ref_rank",
    "entropy",
    "ref_entropy",
    "kl",
    "ref_kl",
    "reward",
)
"""The numbers of a token, by their names in a trace."""

READ: dict[str, Callable[[TraceToken], float | None]] = {name: attrgetter(name) for name in NUMBERS}
"""How each of them is read."""

POSITIVE, NEGATIVE = (33, 102, 172), (230, 97, 1)
"""Blue above 0, orange below: told apart with every kind of colour vision."""


@dataclass(frozen=True)
class Channel:
    """What a colour can stand for.

    Attributes:
        name: its name in the address of a page and in Python.
        label: its name for people.
        formula: what it is.
        column: the number of a token that it shows.
        factor: 1 for a number that has two signs; −1 for a log-prob, shown as surprisal (0 and up, drawn as negative).
        note: what it is and what it is not.
        so_far: whether it speaks of the response up to the token, without a unit, and not of the token: a stretch has
            the value at its end, and nothing is summed.
        output: which of the outputs of a reward model it is, from 0; None: the column itself.
    """

    name: str
    label: str
    formula: str
    column: str
    factor: int
    note: str
    so_far: bool = False
    output: int | None = None

    def value(self, token: TraceToken) -> float | None:
        """Return the number that is coloured, None for a token that the policy did not write."""
        number = READ[self.column](token)
        if self.output is not None:
            number = token.outputs[self.output] if token.outputs else None
        return None if number is None else self.factor * number


CHANNELS: dict[str, Channel] = {
    channel.name: channel
    for channel in (
        Channel(
            "implicit_reward",
            "implicit reward",
            "β (log π − log π_ref)",
            "implicit_reward",
            1,
            "Blue: the policy makes this token likelier than the reference does; orange: less likely. At the optimum "
            "it is r + V*(s′) − V*(s): the reward shaped by what may still follow, not the reward itself, and the most "
            "negative token need not be the mistake. Look at the three baselines before reading credit into it.",
        ),
        Channel(
            "centred_advantage",
            "centred advantage",
            "β (log π + H(π))",
            "centred_advantage",
            1,
            "Blue: likelier than the policy expects of its own choices here; orange: less likely. A − E_π[A] with "
            "A = β log π. It needs no reference, so it does not tell what training changed.",
        ),
        Channel(
            "policy_surprisal",
            "policy surprisal",
            "−log π",
            "logp",
            -1,
            "A baseline: how unexpected the token is to the policy, in nats. Rare is not wrong: names, numbers and "
            "open choices are surprising too.",
        ),
        Channel(
            "reference_surprisal",
            "reference surprisal",
            "−log π_ref",
            "ref_logp",
            -1,
            "A baseline: how unexpected the token was before training, in nats. What this map shows already, the "
            "preferences did not teach.",
        ),
    )
}
"""Implicit reward and the baselines that it is to be read against."""

REWARD = Channel(
    "reward",
    "reward model",
    "r(x, y≤t)",
    "reward",
    1,
    "What the reward model says of the response if it ended here: blue above 0, orange below. It is a level and no "
    "credit: what a token has added is its difference to the one before. A model trained on whole responses was never "
    "asked about their beginnings.",
    so_far=True,
)
"""The reward of a reward model, where one was read."""


def channels_of(traces: Sequence[TokenTrace]) -> list[Channel]:
    """Return the channels that some traces have numbers for; those of a policy, too, where there are no traces."""
    judges = [trace.reward_model for trace in traces if trace.reward_model is not None]
    return channels_by(judges, read=any(map(is_read, traces)))


def channels_by(judges: Sequence[Mapping[str, Any]], *, read: bool) -> list[Channel]:
    """Return the channels of what reward models, and perhaps a policy, have read.

    A reward model with several outputs has a channel for each beside their weighted sum, "reward/NAME".
    """
    found = list(CHANNELS.values()) if not judges or read else []
    if judges:
        found.append(REWARD)
    names = list(judges[0]["outputs"]) if judges else []
    if len(names) > 1 and all(model["outputs"] == names for model in judges):
        found += [_output(number, name) for number, name in enumerate(names)]
    return found


def _output(number: int, name: str) -> Channel:
    note = f"The output {name!r} of the reward model alone. {REWARD.note}"
    name = f"{REWARD.name}/{name}"
    return replace(REWARD, name=name, label=name, formula=f"r_{number + 1}(x, y≤t)", note=note, output=number)


def is_read(trace: TokenTrace) -> bool:
    """Return whether a policy has read a response, and not a reward model alone."""
    return trace.totals.implicit_reward is not None


def find_channel(name: str | None, trace: TokenTrace) -> Channel:
    """Return a channel of a trace by its name; None: the first that it has.

    Raises:
        UserError: the trace has none of this name.
    """
    known = {channel.name: channel for channel in channels_of([trace])}
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise unknown_name("channel", name, known)
    return known[name]


def largest(traces: Iterable[TokenTrace], channel: Channel) -> float:
    """Return the largest absolute value of a channel in some traces, 0 where there is none."""
    return max((abs(channel.value(token) or 0.0) for trace in traces for token in trace.tokens), default=0.0)


def shares(trace: TokenTrace, channel: Channel, scale: float | None = None) -> list[float]:
    """Return for each token its share of the largest absolute value, −1 … 1.

    Surprisal is drawn as negative; tokens that the policy did not write have 0.

    Args:
        trace: whose tokens.
        channel: which number.
        scale: the largest absolute value, where traces are shown side by side; None: that of this trace.
    """
    scale = largest([trace], channel) if scale is None else scale
    return [channel.factor * (channel.value(token) or 0.0) / (scale or 1.0) for token in trace.tokens]
