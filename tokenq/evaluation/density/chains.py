"""Chains of summaries as a density evaluation sees them: texts with their density, and what models say of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from tokenq.density.backends import Entities
from tokenq.density.measures import Summary, measured
from tokenq.density.text import Span, close, holds, key
from tokenq.errors import UserError
from tokenq.records.examples import Example
from tokenq.records.traces import TokenTrace
from tokenq.stats.bootstrap import Floats


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain.

    Attributes:
        name: of its row.
        summaries: what each step is worth, the first first.
        traces: what models say of them; empty where none has read them.
    """

    name: str
    summaries: Sequence[Summary]
    traces: Sequence[TokenTrace] = ()

    def numbers(self, of: Callable[[TokenTrace], float]) -> Floats:
        """Return a number of every step."""
        return np.array([of(trace) for trace in self.traces])


def chains_of_examples(examples: Iterable[Example], entities: Entities) -> list[Chain]:
    """Return the chains of rows whose responses are rated by their step.

    Raises:
        UserError: a row has one response, or responses that are not rated.
    """
    found = []
    for example in examples:
        rated = [(one.score, _text(one.content)) for one in example.responses if one.score is not None]
        if len(rated) < 2:
            raise _no_chain(example.where)
        texts = [text for _, text in sorted(rated, key=lambda one: one[0])]
        found.append(Chain(example.where, measured(texts, entities)))
    return found


def chains_of_traces(traces: Iterable[TokenTrace], entities: Entities) -> list[Chain]:
    """Return the chains of traces whose responses are rated by their step.

    Raises:
        UserError: a row has one response, or responses that are not rated.
    """
    rows: dict[str, list[TokenTrace]] = {}
    for trace in traces:
        rows.setdefault(trace.id.rpartition("/")[0] if trace.score is not None else trace.id, []).append(trace)
    found = []
    for name, own in rows.items():
        if len(own) < 2 or any(one.score is None for one in own):
            raise _no_chain(name)
        steps = sorted(own, key=lambda one: one.score or 0.0)
        found.append(Chain(name, measured([one.response.strip() for one in steps], entities), steps))
    return found


def _no_chain(where: str) -> UserError:
    return UserError(
        f"{where} is no chain of summaries: a chain has two or more, rated by their step.",
        "Give what tokenq densify writes: columns article (or prompt) and summaries.",
    )


def _text(content: object) -> str:
    return content if isinstance(content, str) else " ".join(turn.content for turn in content)  # type: ignore[attr-defined]  # a text is one or turns


class Pairs(NamedTuple):
    """Pairs of steps of one length.

    Attributes:
        places: (chain, earlier step, later step), steps from 0.
        apart: pairs that were left out because their lengths differ.
    """

    places: list[tuple[int, int, int]]
    apart: int


def pairs_of(chains: Sequence[Chain], share: float, *, adjacent: bool) -> Pairs:
    """Return the pairs of steps whose texts are of one length.

    Args:
        chains: the chains.
        share: how much longer the longer one may be.
        adjacent: whether only steps are paired that follow each other.
    """
    places, apart = list[tuple[int, int, int]](), 0
    for number, chain in enumerate(chains):
        steps = range(len(chain.summaries))
        for first, second in pairwise(steps) if adjacent else combinations(steps, 2):
            if close(chain.summaries[first].text, chain.summaries[second].text, share):
                places.append((number, first, second))
            else:
                apart += 1
    return Pairs(places, apart)


def added_spans(text: str, before: str, entities: Entities) -> list[Span]:
    """Return where a text has entities that the one before has not."""
    said = key(before)
    return [(start, end) for start, end in entities(text) if not holds(said, key(text[start:end]))]
