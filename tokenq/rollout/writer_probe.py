"""Which weights a writer behind a server has, by what it writes after a publication.

It writes behind tokens that are the same every time and behind tokens that it has never read. An engine that still
reads its cache of old weights is right about the second and not about the first. Older weights are told by what they
would have written. It is never asked for log-probs of a prompt: under adapters vLLM's are wrong, or end the engine (its
issues 29955 and 51594).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tokenq.rollout.remote import RemoteWriter
from tokenq.rollout.writer import Sample
from tokenq.rollout.writer_checks import Agreement, Bar, Fault
from tokenq.rollout.writer_diagnosis import SAID
from tokenq.search.settings import Sampling

TOKENS = 49
"""Tokens of a question: engines keep prompts in blocks of 16."""

WRITTEN = 16
"""Tokens that are written behind them."""


class Pool(NamedTuple):
    """The tokens that questions are made of.

    Attributes:
        ids: those of the prompts, each once.
        length: of a question.
    """

    ids: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], longest: int) -> "Pool":
        """Return the pool of some prompts.

        Args:
            prompts: in tokens.
            longest: most tokens that server and policy read.
        """
        return cls(tuple(sorted({one for ids in prompts for one in ids})), max(2, min(TOKENS, longest - WRITTEN)))

    def question(self, number: int) -> list[int]:
        """Return the tokens of a question, a function of its number."""
        dice = np.random.default_rng([number, _QUESTION])
        return [int(one) for one in dice.choice(self.ids, self.length)]


_QUESTION = 0xA5C
"""Sets the draws of questions apart from others."""


class Greedy(NamedTuple):
    """The likeliest response to a question, token by token.

    Attributes:
        tokens: its ids.
        logps: of each.
    """

    tokens: Sequence[int]
    logps: Sequence[float]


class Probe(NamedTuple):
    """What a writer writes after weights were published.

    Attributes:
        questions: the fixed tokens, and the fresh ones.
        written: its greedy response to each.
    """

    questions: tuple[Sequence[int], Sequence[int]]
    written: tuple[Sample, Sample]

    @property
    def pairs(self) -> list[tuple[Sequence[int], Sample]]:
        """Each question with its response."""
        return list(zip(self.questions, self.written, strict=True))


def probed(writer: RemoteWriter, pool: Pool, version: int) -> Probe:
    """Ask a writer what tells its weights.

    Args:
        writer: the writer.
        pool: the tokens of questions.
        version: of the weights that were published last.

    Raises:
        UserError: it does not answer.
    """
    questions = pool.question(0), pool.question(version + 1)
    short = replace(writer, limits=replace(writer.limits, max_new_tokens=WRITTEN))
    (fixed,), (fresh,) = short.write(questions, 1, Sampling(temperature=0.0), 0)
    return Probe(questions, (fixed, fresh))


class Taken(NamedTuple):
    """Which weights a writer has.

    Attributes:
        version: of them: the one that was published, or an older one; None for weights that nobody published.
        agreement: with the published ones.
        fault: what is wrong, None for nothing.
    """

    version: int | None
    agreement: Agreement
    fault: Fault | None


def taken(
    probe: Probe, values: tuple[Sequence[float], Sequence[float]], version: int, older: Mapping[int, Greedy], bar: Bar
) -> Taken:
    """Return which weights a writer has.

    It writes what older weights would have written, and its log-probs are half as far from theirs as from those of the
    published ones, and further from these than rounding is: it has the older ones. Fresh tokens tell other weights from
    a cache of the old ones, which has never seen them.

    Args:
        probe: what the writer writes.
        values: the published weights' log-probs of both responses.
        version: of the published weights.
        older: the response to the fixed tokens under weights that were published before, by their versions.
        bar: how far log-probs may be apart.
    """
    fixed, fresh = (Agreement.of(one.logps, own) for one, own in zip(probe.written, values, strict=True))
    if fixed.mean > bar.noise and fresh.mean > bar.noise:
        apart = {number: _apart(probe.written[0], known) for number, known in older.items()}
        nearest = min(apart, key=lambda number: (apart[number], -number), default=version)
        if apart.get(nearest, math.inf) < fixed.mean / 2:
            evidence = (("mean |Δ log π| to the published weights", fixed.mean), ("to the older ones", apart[nearest]))
            found = f"it has the weights of version {nearest}, and version {version} was published"
            return Taken(nearest, fixed, Fault("stale-weights", found, evidence, SAID["stale-weights"][1]))
    if fixed.within(bar) and fresh.within(bar):
        return Taken(version, max(fixed, fresh), None)
    named = "cache-not-reset" if fresh.within(bar) else "other-weights"
    said, change = SAID[named]
    evidence = (
        ("mean |Δ log π| behind tokens it has read before", fixed.mean),
        ("behind tokens it has never read", fresh.mean),
    )
    return Taken(None, fixed, Fault(named, said.format(""), evidence, change))


def _apart(written: Sample, known: Greedy) -> float:
    """Return the mean |Δ log π| of the tokens that both begin with; infinite where they part in the first half."""
    common, longer = leading(written.token_ids, known.tokens), max(len(written.token_ids), len(known.tokens))
    return Agreement.of(written.logps[:common], known.logps[:common]).mean if 2 * common >= longer else math.inf


def leading(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
