"""Prompts that are read, part by part, with the log-probs of their own tokens where these are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tokenq.core.logits import HeadLogits, Logits, highest_of
from tokenq.core.logps import Head
from tokenq.models.forward.stepper import logps_behind
from tokenq.models.forward.streams.joined import Layers
from tokenq.models.forward.streams.memory import Said

ROWS = 64
"""Positions whose log-probs over the whole vocabulary are held at a time."""


@dataclass(eq=False)
class Reading:
    """A prompt that is being read.

    Attributes:
        prompt: its tokens.
        alternatives: how many are wanted at each of its tokens; None where not even their log-probs are.
        done: tokens of it that are read.
        layers: keys and values of these; empty where it is read at once.
        said: log-probs and alternatives of its tokens, as far as they are known; the first has none.
    """

    prompt: tuple[int, ...]
    alternatives: int | None
    done: int = 0
    layers: Layers = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Tokens that are still to be read."""
        return len(self.prompt) - self.done


def said_by_states(hidden: Tensor, head: Head, targets: Sequence[int], alternatives: int) -> list[Said]:
    """Return log-probs of tokens and the likeliest in their place, from the states [N, H] that predict them."""
    device = hidden.device
    if not targets:
        return []
    if alternatives == 0:
        wanted = torch.tensor(targets, device=device)
        return [(logp, ()) for logp in HeadLogits(hidden, head).logps(wanted).tolist()]
    found: list[Said] = []
    for start in range(0, len(targets), ROWS):
        found += _said(logps_behind(head, hidden[start : start + ROWS]), targets[start : start + ROWS], alternatives)
    return found


def said_by_logits(logits: Logits, targets: Sequence[int], alternatives: int) -> list[Said]:
    """Return the same from the logits at the positions that predict the tokens."""
    found: list[Said] = []
    for start in range(0, len(targets), ROWS):
        rows = slice(start, min(start + ROWS, len(targets)))
        logps = logits.tile(rows, slice(0, logits.shape[1])).T.log_softmax(-1)
        found += _said(logps, targets[rows], alternatives)
    return found


def _said(logps: Tensor, targets: Sequence[int], alternatives: int) -> list[Said]:
    wanted = torch.tensor(targets, device=logps.device)
    own = logps.gather(1, wanted[:, None])[:, 0].tolist()
    return list(zip(own, likeliest(logps, alternatives), strict=True))


def likeliest(logps: Tensor, count: int) -> Iterator[tuple[tuple[int, float], ...]]:
    """Yield the `count` likeliest tokens of every row of log-probs [N, V], best first."""
    if count == 0:
        yield from ((),) * len(logps)
        return
    values, places = highest_of(logps.T, min(count, logps.shape[1]))
    for ids, numbers in zip(places.tolist(), values.tolist(), strict=True):
        yield tuple(zip(ids, numbers, strict=True))
