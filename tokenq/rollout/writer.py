"""Writers: what generates the responses of a round. Token ids go in and come out; no text crosses the boundary."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig

from tokenq.collector import collector_paused
from tokenq.core.tensors import Frontier, Stepper
from tokenq.records.examples import TokenResponse
from tokenq.records.rollouts import Distribution, Finish
from tokenq.search.branches import Branch, Limits, Walk
from tokenq.search.sampling import kept, sample
from tokenq.search.settings import Sampling


class Sample(NamedTuple):
    """One response as a writer gives it back.

    Attributes:
        token_ids: what was sampled, EOS included.
        logps: of each token, in the distribution that `logps_of` names.
        kept_mass: what filters left at each token of the tempered distribution; None without filters, or unknown.
        finish: how it ended.
        logps_of: "model" for log π, before temperature and filters; "sampler" for what was drawn from.
        version: updates that the weights had seen; None for those of the policy as it is.
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    kept_mass: tuple[float, ...] | None
    finish: Finish
    logps_of: Distribution = "model"
    version: int | None = None


Seed = int | Sequence[int]
"""What draws are a function of: one for all prompts, whose draws then are of their tokens too, or one for each."""


class Writer(Protocol):
    """Writes responses to prompts, in the order in which it is asked."""

    @property
    def engine(self) -> str:
        """What computes, and in which type: part of every rollout's record."""
        ...

    def write(self, prompts: Sequence[Sequence[int]], count: int, sampling: Sampling, seed: Seed) -> list[list[Sample]]:
        """Return `count` responses to every prompt, a function of weights, prompt, sampling and seed alone."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A writer that need not read a dialogue from its beginning at every turn."""

    def remembering(self) -> Writer:
        """Return a writer like this one that keeps what it reads from now on; its weights must stay as they are."""
        ...


@dataclass(frozen=True)
class LocalWriter:
    """The stepper over a model in this process: a prompt is computed once for all its samples.

    Attributes:
        stepper: gives a fresh stepper over the weights as they are now.
        limits: where responses end.
        engine: what computes, and in which type.
        prepared: puts the model into the state in which it writes, for the duration of a block.
        dialogues: gives a function like `stepper`, whose steppers go on from prompts that an earlier one has read; None
            to read every prompt from its beginning.
    """

    stepper: Callable[[], Stepper]
    limits: Limits
    engine: str = "local"
    prepared: Callable[[], contextlib.AbstractContextManager[None]] = field(default=contextlib.nullcontext)
    dialogues: Callable[[], Callable[[], Stepper]] | None = None

    def remembering(self) -> "LocalWriter":
        """Return the writer of dialogues that go on, as if it had read nothing yet."""
        return self if self.dialogues is None else replace(self, stepper=self.dialogues())

    def write(self, prompts: Sequence[Sequence[int]], count: int, sampling: Sampling, seed: Seed) -> list[list[Sample]]:
        """Return `count` responses to every prompt."""
        with torch.no_grad(), collector_paused(), self.prepared():
            stepper: Stepper = self.stepper()
            masses = KeptMasses(stepper, sampling) if _filters(sampling) else None
            walk = Walk(masses or stepper, prompts, self.limits)
            found = sample(walk, sampling, count=count, seed=seed)
        return [[self._sample(branch, masses) for branch in branches] for branches in found]

    def _sample(self, branch: Branch, masses: "KeptMasses | None") -> Sample:
        ended = branch.tokens[-1:] and branch.tokens[-1] in self.limits.eos
        mass = None if masses is None else masses.along(branch)
        return Sample(branch.tokens, branch.logps, mass, "stop" if ended else "length")


@dataclass(frozen=True)
class StoredWriter:
    """Responses that were there before: those of pairs for the same prompt, whatever is asked for.

    Attributes:
        responses: by the token ids of their prompts.
        logps: (prompt, responses) → log π of each token of each, under the policy as it is.
        engine: what computes them.
    """

    responses: Mapping[tuple[int, ...], Sequence[TokenResponse]]
    logps: Callable[[tuple[int, ...], Sequence[TokenResponse]], Sequence[Sequence[float]]]
    engine: str = "data"

    def write(self, prompts: Sequence[Sequence[int]], count: int, sampling: Sampling, seed: Seed) -> list[list[Sample]]:
        """Return the first `count` responses that are there for every prompt."""
        found = []
        for prompt in map(tuple, prompts):
            some = self.responses.get(prompt, ())[:count]
            logps = self.logps(prompt, some) if some else ()
            finishes: list[Finish] = ["stop" if one.terminal else "length" for one in some]
            rows = zip(some, logps, finishes, strict=True)
            found.append([Sample(tuple(one.ids.tolist()), tuple(row), None, finish) for one, row, finish in rows])
        return found


def prompts_at_once(model: PretrainedConfig, samples: int, tokens: int, itemsize: int) -> int:
    """Return how many prompts are written to side by side, where nobody says.

    Many rows share one reading of the weights; what they hold (keys and values at most as wide as the hidden states,
    next-token log-probs) stays small beside what a training step of the same model needs.

    Args:
        model: its configuration.
        samples: responses to each prompt.
        tokens: most tokens of each.
        itemsize: bytes of a number.
    """
    text = model.get_text_config()
    kept: int = 2 * text.num_hidden_layers * text.hidden_size * itemsize * tokens
    rows: int = min(MOST_ROWS, MOST_LOGPS // text.vocab_size, MOST_KEPT // kept)
    return max(1, rows // samples)


MOST_ROWS = 512
"""Responses side by side: more are no faster on any model that was timed."""

MOST_LOGPS = 2**25
"""Next-token log-probs of one step: 128 MB in float32."""

MOST_KEPT = 2**32
"""Bytes of keys and values of all responses together."""


def _filters(sampling: Sampling) -> bool:
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0)


class KeptMasses:
    """A stepper that notes, at every branch of every step, the probability that filters leave.

    Args:
        stepper: steps.
        sampling: temperature and filters.
    """

    def __init__(self, stepper: Stepper, sampling: Sampling) -> None:
        self._stepper, self._sampling = stepper, sampling
        self._masses: list[list[float]] = []
        self._parents: list[list[int]] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> Frontier:
        """Return a frontier of one branch for each prompt."""
        return self._noted(self._stepper.start(prompts), list(range(len(prompts))))

    def step(self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]) -> Frontier:
        """Return the frontier after each token is appended to its parent branch."""
        return self._noted(self._stepper.step(state, parents, tokens), parents.tolist())

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return the state of branches of several states."""
        return self._stepper.gather(places)

    def along(self, branch: Branch) -> tuple[float, ...]:
        """Return the mass at each token of a branch that was sampled from the first frontier on."""
        row, found = branch.row, list[float]()
        for number in reversed(range(len(branch.tokens))):
            found.append(self._masses[number][row])
            row = self._parents[number][row]
        return tuple(reversed(found))

    def _noted(self, frontier: Frontier, parents: list[int]) -> Frontier:
        tempered = frontier.logps / self._sampling.temperature
        left = kept(frontier.logps, self._sampling).logsumexp(-1) - tempered.logsumexp(-1)
        self._masses.append(left.exp().clamp(max=1.0).tolist())
        self._parents.append(parents)
        return frontier
