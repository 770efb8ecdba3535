"""Which weights a writer behind a server has, by what it says of fixed tokens after a publication.

It is asked for log-probs of tokens that are the same every time and of tokens that it has never read, and writes behind
both. An engine that still reads its cache of old weights is right about the second and not about the first.
"""

from collections.abc import Callable, Mapping, Sequence
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

WRITTEN = 8
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


class Probe(NamedTuple):
    """What a writer says of fixed tokens after weights were published.

    Attributes:
        questions: the fixed tokens, and the fresh ones.
        fixed: its log-probs of the same tokens every time.
        fresh: of tokens that it has never read.
        written: what it writes behind the fixed and behind the fresh ones, greedily.
    """

    questions: tuple[Sequence[int], Sequence[int]]
    fixed: Sequence[float]
    fresh: Sequence[float]
    written: tuple[Sample, Sample]

    def values(self, logps: Callable[[Sequence[int], Sequence[int]], Sequence[float]]) -> "Values":
        """Return what the trainer says of the same tokens.

        Args:
            logps: (prompt, response) → log π of each token of the response.
        """
        fixed, fresh = self.questions
        behind, new = (logps(ids, one.token_ids) for ids, one in zip(self.questions, self.written, strict=True))
        return Values(logps(fixed[:1], fixed[1:]), logps(fresh[:1], fresh[1:]), (behind, new))


def probed(writer: RemoteWriter, pool: Pool, version: int) -> Probe:
    """Ask a writer what tells its weights.

    Args:
        writer: the writer.
        pool: the tokens of questions.
        version: of the weights that were published last.

    Raises:
        UserError: it does not answer.
    """
    fixed, fresh = pool.question(0), pool.question(version + 1)
    told, new = writer.logps([fixed, fresh])
    short = replace(writer, limits=replace(writer.limits, max_new_tokens=WRITTEN))
    (behind,), (after,) = short.write([fixed, fresh], 1, Sampling(temperature=0.0), 0)
    return Probe((fixed, fresh), told, new, (behind, after))


class Values(NamedTuple):
    """The trainer's log-probs of the tokens of a probe."""

    fixed: Sequence[float]
    fresh: Sequence[float]
    written: tuple[Sequence[float], Sequence[float]]


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


def taken(probe: Probe, values: Values, version: int, older: Mapping[int, Sequence[float]], bar: Bar) -> Taken:
    """Return which weights a writer has, by what it says of fixed tokens.

    Half as far from older weights as from the new ones, and further from these than rounding is: it has the older ones.
    Fresh tokens tell other weights from a cache of the old ones, which has never seen them.

    Args:
        probe: what the writer says.
        values: what the published weights say.
        version: of the published weights.
        older: what weights that were published before say of the fixed tokens, by their versions.
        bar: how far log-probs may be apart.
    """
    fixed, fresh = Agreement.of(probe.fixed, values.fixed), Agreement.of(probe.fresh, values.fresh)
    behind, new = (Agreement.of(one.logps, own) for one, own in zip(probe.written, values.written, strict=True))
    if not new.within(bar):  # what it writes is off without a cache too: a comparison of its samples says why
        behind = fresh
    if fixed.mean > bar.noise and older:
        apart, before = min((Agreement.of(probe.fixed, known).mean, -number) for number, known in older.items())
        if apart < fixed.mean / 2 and fresh.mean > bar.noise:
            evidence = (("mean |Δ log π| to the published weights", fixed.mean), ("to the older ones", apart))
            found = f"it has the weights of version {-before}, and version {version} was published"
            return Taken(-before, fixed, Fault("stale-weights", found, evidence, SAID["stale-weights"][1]))
    if fixed.within(bar) and fresh.within(bar) and behind.within(bar):
        return Taken(version, max(fixed, fresh, behind), None)
    named = "cache-not-reset" if fresh.within(bar) else "other-weights"
    said, change = SAID[named]
    evidence = (
        ("mean |Δ log π| of tokens it has read before", max(fixed.mean, behind.mean)),
        ("of tokens it has never read", fresh.mean),
    )
    return Taken(None, max(fixed, behind), Fault(named, said.format(""), evidence, change))
