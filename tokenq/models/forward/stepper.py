"""Step a policy and its reference: prompts are computed once and shared by branches."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenq.core.logps import Head, row_logits
from tokenq.core.packing import pack
from tokenq.core.tensors import Frontier, PackedBatch, Segment
from tokenq.models.forward.attention import SEGMENTS, Layout, Past
from tokenq.models.forward.cache import Branches, Prefill, Steps, gathered
from tokenq.models.forward.packed_lm import WAYS, PackedLM
from tokenq.models.forward.single_rows import set_attention
from tokenq.records.examples import TokenGroup, TokenResponse


class ModelStepper:
    """A `Stepper` over a policy and, where an objective needs it, its reference.

    Args:
        policy: the model that writes.
        reference: the model it is compared with; None where no objective needs one.
        memory: prompts that the policy has read, as it is now; None to read every prompt from its beginning.
    """

    def __init__(
        self, policy: PackedLM, reference: PackedLM | None = None, memory: "PromptMemory | None" = None
    ) -> None:
        self._writers = [writer(policy, memory), *([] if reference is None else [writer(reference)])]

    @torch.no_grad()
    def start(self, prompts: Sequence[Sequence[int]]) -> Frontier:
        """Return a frontier of one branch for each prompt."""
        return _frontier([one.start(prompts) for one in self._writers])

    @torch.no_grad()
    def step(self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]) -> Frontier:
        """Return the frontier of M branches: token m appended to branch `parents[m]` of the frontier of `state`."""
        return _frontier([one.step(own, parents, tokens) for one, own in zip(self._writers, state, strict=True)])

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return the state of branches of several states that grew from the same prompts."""
        return [one.gather([(state[i], row) for state, row in places]) for i, one in enumerate(self._writers)]


def _frontier(stepped: Sequence[tuple[Tensor, Any]]) -> Frontier:
    """Return what each model has come to as one frontier, whose state is that of every model."""
    (logps, *other), states = zip(*stepped, strict=True)
    return Frontier(logps, other[0] if other else None, states)


def writer(lm: PackedLM, memory: "PromptMemory | None" = None) -> "Writer":
    """Return the fastest exact writer for a model: with cached keys and values if these proved exact."""
    if not (WAYS[lm.way].shares_prompts and lm.steps):
        return Rereading(lm)
    return Caching(lm, memory) if lm.limit is None else UpTo(lm, lm.limit, memory)


@dataclass
class PromptMemory:
    """The prompts that were read last, with their keys and values: a conversation that goes on is read from there on.

    It belongs to one model, and to its weights as they are.

    Attributes:
        prompts: where each stands in the flat row of all of them.
        keys: by layer [key-value heads, T, d].
        values: by layer [key-value heads, T, d].
    """

    prompts: dict[tuple[int, ...], int] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def known(self, prompt: Sequence[int]) -> tuple[int, int]:
        """Return where the beginning of a prompt stands in the row, its last token never; an empty span for none."""
        fitting = (
            (len(one), start)
            for one, start in self.prompts.items()
            if len(one) <= len(prompt) and one[-1] == prompt[len(one) - 1] and one == tuple(prompt[: len(one)])
        )
        length, start = max(fitting, default=(0, 0))
        return start, start + min(length, len(prompt) - 1)

    def keep(self, prompts: Sequence[Sequence[int]], read: Prefill) -> None:
        """Keep what was read in place of what was there, as long as that is not too much."""
        starts = accumulate(map(len, prompts), initial=0)
        size = sum(one.nbytes for kept in (read.keys, read.values) for one in kept.values())
        fits = size <= MOST_KEPT
        self.prompts = dict(zip(map(tuple, prompts), starts, strict=False)) if fits else {}
        self.keys, self.values = (dict(read.keys), dict(read.values)) if fits else ({}, {})


MOST_KEPT = 2**32
"""Bytes of keys and values that are kept of prompts between their turns."""


def remembering(lm: PackedLM) -> Callable[[], ModelStepper]:
    """Return a function that makes steppers, each of which goes on from the prompts that the one before has read."""
    memory = PromptMemory()
    return lambda: ModelStepper(lm, memory=memory)


class Caching:
    """A writer that caches keys and values: a prompt's once for all its branches, a branch's own tokens.

    Args:
        lm: a model whose attention runs through the package's own functions.
        memory: prompts that it has read; None to read every prompt from its beginning.
    """

    def __init__(self, lm: PackedLM, memory: PromptMemory | None = None) -> None:
        head = lm.head()
        assert head is not None  # the way in which it shares prompts has proved that it has one
        self._lm, self._head, self._memory = lm, head, memory

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "P V"], Branches]:
        """Return the next-token log-probs behind every prompt, and one branch for each."""
        memory = self._memory
        if memory is None:
            batch = as_batch(prompts).to(self._lm.device)
            kept = Prefill(Layout.of(batch))
            hidden = self._run(batch.input_ids, batch.position_ids, kept)
            return logps_behind(self._head, hidden[batch.predictors]), Branches.of(kept)
        spans = [memory.known(prompt) for prompt in prompts]
        before = [stop - start for start, stop in spans]
        batch = as_batch([prompt[size:] for prompt, size in zip(prompts, before, strict=True)]).to(self._lm.device)
        lengths = [segment.stop - segment.start for segment in batch.segments]
        shift = torch.tensor(before).repeat_interleave(torch.tensor(lengths)).to(self._lm.device)
        ends = list(accumulate(map(len, prompts), initial=0))
        whole = tuple(Segment(start, stop, start, start) for start, stop in pairwise(ends))
        past = Past(memory.keys, memory.values, spans, lengths)
        kept = Prefill(Layout(whole, batch.position_ids + shift), past=past)
        hidden = self._run(batch.input_ids, kept.layout.positions, kept)
        memory.keep(prompts, kept)
        kept.past = None
        return logps_behind(self._head, hidden[batch.predictors]), Branches.of(kept)

    def step(
        self, state: Branches, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M V"], Branches]:
        """Return the next-token log-probs after each token, and the branches that have grown by it."""
        steps = Steps(state, parents)
        hidden = self._run(tokens.to(self._lm.device), steps.positions, steps)
        return logps_behind(self._head, hidden), steps.done()

    def gather(self, places: Sequence[tuple[Branches, int]]) -> Branches:
        """Return branches picked from several steps."""
        return gathered(places)

    def _run(self, ids: Tensor, positions: Tensor, layout: Any) -> Tensor:
        """Return the last hidden states [T, H] of a flat row."""
        with by_segments(self._lm):
            output = self._lm.lm.base_model(
                input_ids=ids[None], position_ids=positions[None], use_cache=False, tokenq_layout=layout
            )
        states: Tensor = output.last_hidden_state[0]
        return states


class Rereading:
    """A writer that reads the whole text again at every step: slow, and right for every causal LM.

    Args:
        lm: any model.
    """

    def __init__(self, lm: PackedLM) -> None:
        self._lm = lm

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "P V"], list[tuple[int, ...]]]:
        """Return the next-token log-probs behind every prompt, and the prompts."""
        return self._read([tuple(prompt) for prompt in prompts])

    def step(
        self, state: list[tuple[int, ...]], parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M V"], list[tuple[int, ...]]]:
        """Return the next-token log-probs after each token, and the texts so far."""
        return self._read([(*state[p], t) for p, t in zip(parents.tolist(), tokens.tolist(), strict=True)])

    def gather(self, places: Sequence[tuple[list[tuple[int, ...]], int]]) -> list[tuple[int, ...]]:
        """Return the texts picked from several steps."""
        return [state[row] for state, row in places]

    def _read(self, texts: list[tuple[int, ...]]) -> tuple[Tensor, list[tuple[int, ...]]]:
        logits = self._lm.logits(as_batch(texts), behind=0)
        count, vocabulary = logits.shape
        return logits.tile(slice(0, count), slice(0, vocabulary)).T.log_softmax(-1), texts


class UpTo:
    """A writer that caches keys and values while texts are short enough for that to be exact.

    Args:
        lm: a model.
        limit: tokens of the longest text for which kept keys and values are exact.
        memory: prompts that it has read; None to read every prompt from its beginning.
    """

    def __init__(self, lm: PackedLM, limit: int, memory: PromptMemory | None = None) -> None:
        self._kept, self._whole, self._limit = Caching(lm, memory), Rereading(lm), limit

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "P V"], Any]:
        """Return the next-token log-probs behind every prompt, and the texts with what is kept of them."""
        texts = [tuple(prompt) for prompt in prompts]
        if max(map(len, texts)) > self._limit:
            return self._whole.start(texts)[0], (texts, None)
        logps, branches = self._kept.start(texts)
        return logps, (texts, branches)

    def step(
        self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M V"], Any]:
        """Return the next-token log-probs after each token, and the texts with what is kept of them."""
        before, branches = state
        texts = [(*before[p], t) for p, t in zip(parents.tolist(), tokens.tolist(), strict=True)]
        if branches is None or max(map(len, texts)) > self._limit:
            return self._whole.start(texts)[0], (texts, None)
        logps, grown = self._kept.step(branches, parents, tokens)
        return logps, (texts, grown)

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return the texts picked from several steps, with what is kept where all of them have it."""
        texts = [state[0][row] for state, row in places]
        kept = all(state[1] is not None for state, _ in places)
        return texts, self._kept.gather([(state[1], row) for state, row in places]) if kept else None


Writer = Caching | Rereading | UpTo
"""A model that reads prompts and extends branches token by token."""


def as_batch(texts: Sequence[Sequence[int]]) -> PackedBatch:
    """Return a packed row of texts, each of which predicts one token (which one does not matter)."""
    nothing = TokenResponse(np.zeros(1, np.int32), np.ones(1, np.bool_), terminal=False)
    return pack([TokenGroup(np.array(text, np.int32), (nothing,), False, "prompt") for text in texts])


def logps_behind(head: Head, hidden: Tensor) -> Tensor:
    """Return [N, V] log-probs over the whole vocabulary of the tokens behind N states."""
    logits = row_logits(hidden, head)
    return torch.log_softmax(logits, -1, out=logits)


@contextlib.contextmanager
def by_segments(lm: PackedLM) -> Iterator[None]:
    """Use segment attention for the duration of the block."""
    usual = WAYS[lm.way].attention
    if usual == SEGMENTS:
        yield
        return
    set_attention(lm.lm, SEGMENTS)
    try:
        yield
    finally:
        set_attention(lm.lm, usual)
