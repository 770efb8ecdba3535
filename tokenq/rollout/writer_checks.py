"""Is a writer that is not in this process what it should be? The checks that rounds and the doctor share.

What a writer gives back is compared with the trainer's own forward pass over the same token ids. Two float32 engines
agree to 1e-5 nats a token, so that a bar of 1e-3 has room on both sides; in half precision only means are told apart.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from tokenq.errors import UserError
from tokenq.records.rollouts import Distribution
from tokenq.rollout.writer import Sample
from tokenq.rollout.writer_diagnosis import SAID, diagnosed
from tokenq.search.branches import Limits
from tokenq.search.sampling import filtered
from tokenq.search.settings import Sampling

Table = Callable[[Sequence[int], Sequence[int]], Tensor]
"""(prompt, response) → [T, V] log-probs of every token at each place of the response, as the trainer computes them."""

LOOKED_AT = 16
"""Responses of a batch that are compared."""

TABLED = 64
"""Tokens whose whole distributions are kept for a diagnosis."""


class Bar(NamedTuple):
    """How far log-probs of an engine may be from the trainer's.

    Attributes:
        mean: of |Δ| over tokens.
        worst: of |Δ| at any token.
        noise: mean |Δ| below which nobody can say which weights computed.
    """

    mean: float
    worst: float
    noise: float


BARS: Mapping[str, Bar] = {
    "float64": Bar(1e-3, 1e-3, 1e-5),
    "float32": Bar(1e-3, 1e-3, 1e-5),
    "bfloat16": Bar(1e-2, math.inf, 3e-3),
    "float16": Bar(1e-2, math.inf, 3e-3),
}
"""By the type in which the trainer computes."""


class Fault(NamedTuple):
    """What is wrong with a writer.

    Attributes:
        name: of the fault, the same in every run.
        found: what was found and what it means.
        evidence: the numbers behind it.
        change: what to change.
        severity: "error" stops a round; "warning" is said; "note" explains.
    """

    name: str
    found: str
    evidence: tuple[tuple[str, float | str], ...]
    change: str
    severity: Literal["error", "warning", "note"] = "error"

    def raised(self, writer: str) -> "WriterError":
        """Return the error that stops a round."""
        numbers = "; ".join(
            f"{what}: {value if isinstance(value, str) else f'{value:.4g}'}" for what, value in self.evidence
        )
        said = f"{self.found} ({numbers})" if numbers else self.found
        return WriterError(self, f"The writer at {writer}: {said}.", self.change)


class WriterError(UserError):
    """A writer that is not what it should be.

    Args:
        fault: what is wrong.
        message: the same for people.
        hint: what to do about it.
    """

    def __init__(self, fault: Fault, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.fault = fault


class Agreement(NamedTuple):
    """How far the log-probs of a writer are from those of the trainer.

    Attributes:
        mean: of |Δ| over tokens.
        worst: largest |Δ|.
        outside: share of tokens whose ratio exp(Δ) is outside [.9, 1.1].
        tokens: how many there are.
    """

    mean: float
    worst: float
    outside: float
    tokens: int

    @classmethod
    def of(cls, found: Sequence[float], own: Sequence[float]) -> "Agreement":
        """Return the agreement of two sequences."""
        gaps = np.asarray(found, np.float64) - np.asarray(own, np.float64)
        ratios = np.exp(np.clip(gaps, -50, 50))
        outside = float(((ratios < 0.9) | (ratios > 1.1)).mean())
        return cls(float(np.abs(gaps).mean()), float(np.abs(gaps).max()), outside, len(gaps))

    def within(self, bar: Bar) -> bool:
        """Return whether it is within a bar; what is no number is not."""
        return self.mean <= bar.mean and self.worst <= bar.worst

    def numbers(self) -> tuple[tuple[str, float | str], ...]:
        """Return what a fault shows."""
        return (
            ("mean |Δ log π|, nats", self.mean),
            ("largest |Δ log π|, nats", self.worst),
            ("share of ratios outside [.9, 1.1]", self.outside),
            ("tokens compared", self.tokens),
        )


class Compared(NamedTuple):
    """What a comparison of a batch has come to.

    Attributes:
        agreement: with the trainer.
        logps_of: which distribution the log-probs are of.
        fault: what is wrong, None for nothing.
    """

    agreement: Agreement
    logps_of: Distribution
    fault: Fault | None


def compared(
    written: Sequence[tuple[Sequence[int], Sample]],
    sampling: Sampling,
    table: Table,
    bar: Bar,
    recoded: Callable[[Sequence[int], Sequence[int]], Sequence[int]],
) -> Compared:
    """Compare the log-probs of a batch with the trainer's own, and say whose they are or what is wrong.

    Args:
        written: (prompt, response) pairs, at least one.
        sampling: what was asked for.
        table: the trainer's log-probs.
        bar: how far they may be apart.
        recoded: (prompt, response) → what the tokenizer makes of the response's text.
    """
    found, own, kept, shown = list[float](), list[float](), list[Tensor](), list[int]()
    for prompt, one in written[:LOOKED_AT]:
        logps = table(prompt, one.token_ids).double().cpu()
        found += one.logps
        own += [float(row[token]) for row, token in zip(logps, one.token_ids, strict=True)]
        if len(shown) < TABLED:
            kept += logps[: TABLED - len(shown)]
            shown += one.token_ids[: TABLED - len(shown)]
    plain = Agreement.of(found, own)
    if plain.within(bar):
        return Compared(plain, "model", None)
    if sampling != Sampling() and sampling.temperature > 0:
        drawn = [float(filtered(row[None], sampling)[0, token]) for row, token in zip(kept, shown, strict=True)]
        sampler = Agreement.of(found[: len(shown)], drawn)
        if sampler.within(bar):
            return Compared(sampler, "sampler", _of_sampler(sampling, plain))
    same = all(list(recoded(prompt, one.token_ids)) == list(one.token_ids) for prompt, one in written[:LOOKED_AT])
    cause = diagnosed(found[: len(shown)], kept, shown, bar.mean) or ("retokenised" if same else "other-weights", "")
    said, change = SAID[cause[0]]
    return Compared(plain, "model", Fault(cause[0], said.format(cause[1]), plain.numbers(), change))


def _of_sampler(sampling: Sampling, plain: Agreement) -> Fault:
    how = ", ".join(f"{name} {value:g}" for name, value in vars(sampling).items() if value != getattr(Sampling(), name))
    return Fault(
        "logps-of-sampler",
        f"its log-probs are those of what it drew from ({how}), and are recorded as the sampler's",
        plain.numbers(),
        "Losses do not read them. vLLM gives the model's with --logprobs-mode raw_logprobs, its default.",
        "warning",
    )


def audited(prompt: Sequence[int], choice: Mapping[str, Any], limits: Limits, size: int) -> Fault | None:
    """Return what is wrong with one response as the server gives it, None for nothing.

    Args:
        prompt: what it was asked to continue.
        choice: the response: token ids, log-probs, the prompt as it was read, why it ended.
        limits: where responses to this prompt end.
        size: tokens that the policy knows.
    """
    ids, read = choice.get("token_ids"), choice.get("prompt_token_ids")
    logps = (choice.get("logprobs") or {}).get("token_logprobs")
    if ids is None or read is None:
        return fault("text-only", "")
    if list(read) != list(prompt):
        place = next((at for at, (one, two) in enumerate(zip(read, prompt, strict=False)) if one != two), None)
        other = f"{len(read)} tokens for {len(prompt)}" if place is None else f"another token at place {place}"
        return fault("prompt-changed", other)
    if logps is None:
        return fault("no-logps", "")
    if len(logps) != len(ids):
        return fault("retokenised", f", {len(logps)} log-probs for {len(ids)} ids")
    if not all(isinstance(one, int | float) and math.isfinite(one) and one <= 1e-4 for one in logps):
        return fault("not-finite", "")
    if any(not 0 <= one < size for one in ids):
        return fault("other-tokenizer", f"token {max(ids)}, and the policy has {size}")
    return _ended(ids, choice.get("finish_reason"), limits)


def _ended(ids: Sequence[int], finish: Any, limits: Limits) -> Fault | None:
    if finish not in ("stop", "length"):
        return fault("no-finish", repr(finish))
    ends = [place for place, one in enumerate(ids) if one in limits.eos]
    if ends and ends[0] < len(ids) - 1:
        return fault("end-inside", f"at place {ends[0]} of {len(ids)}")
    if bool(ends) != (finish == "stop"):
        return fault("end-missing", f"finish is {finish!r}, and the last token {ids[-1] if ids else 'is none'}")
    if len(ids) > limits.max_new_tokens or (finish == "length" and len(ids) < limits.max_new_tokens):
        return fault("length-wrong", f"{len(ids)} tokens, and {limits.max_new_tokens} were allowed")
    return None


def fault(name: str, more: str) -> Fault:
    """Return a fault that needs no numbers.

    Args:
        name: a key of `SAID`.
        more: what its words have a place for.
    """
    said, change = SAID[name]
    return Fault(name, said.format(more), (), change)
