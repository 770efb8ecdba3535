"""A large model steered by the log-ratio of a small pair: proxy tuning, emulated fine-tuning.

log π ∝ log π_large + Σ_i α_i (log π_i − log π_i,ref): Eq. 14 of arXiv 2404.12358, arXiv 2310.12962 and 2401.08565. It
is normalised in each state by itself, so it looks one token ahead (docs/theory.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tokenq.core.tensors import Frontier, Stepper
from tokenq.errors import UserError
from tokenq.search.config import SearchConfig

SLACK = 1024
"""Rows by which vocabularies may differ: embeddings padded to a round number."""


@dataclass(frozen=True)
class Term:
    """A pair whose log-ratio is added.

    Attributes:
        pair: a stepper with both the tuned and the untuned model (policy and reference).
        alpha: its weight.
    """

    pair: Stepper
    alpha: float = 1.0


class ProxyStepper:
    """A `Stepper` over the combined distribution; its reference is the large model itself.

    Args:
        large: the model that is steered.
        terms: what is added to it.
    """

    def __init__(self, large: Stepper, terms: Sequence[Term]) -> None:
        self._large = large
        self._terms = tuple(terms)

    def start(self, prompts: Sequence[Sequence[int]]) -> Frontier:
        """Return a frontier of one branch for each prompt."""
        return self._combined(self._large.start(prompts), [term.pair.start(prompts) for term in self._terms])

    def step(self, state: Any, parents: Int[Tensor, " M"], tokens: Int[Tensor, " M"]) -> Frontier:
        """Return the frontier after each token is appended to its parent branch, in every model."""
        large, pairs = state
        stepped = [term.pair.step(place, parents, tokens) for term, place in zip(self._terms, pairs, strict=True)]
        return self._combined(self._large.step(large, parents, tokens), stepped)

    def gather(self, places: Sequence[tuple[Any, int]]) -> Any:
        """Return the state of branches of several states, in every model."""
        large = self._large.gather([(state[0], row) for state, row in places])
        pairs = [
            term.pair.gather([(state[1][number], row) for state, row in places])
            for number, term in enumerate(self._terms)
        ]
        return large, pairs

    def _combined(self, large: Frontier, pairs: list[Frontier]) -> Frontier:
        total = large.logps
        for term, pair in zip(self._terms, pairs, strict=True):
            if pair.ref_logps is None:
                raise UserError("A proxy is a pair: tuned and untuned model.", "Give both.")
            total = total + _fitted(term.alpha * (pair.logps - pair.ref_logps), total.shape[1])
        state: Any = (large.state, [pair.state for pair in pairs])
        return Frontier(total.log_softmax(-1), large.logps, state)


def _fitted(ratios: Tensor, vocabulary: int) -> Tensor:
    """Return log-ratios over another vocabulary size; rows that only one model has are padding and add nothing.

    Raises:
        UserError: the sizes are further apart than padding explains.
    """
    size = ratios.shape[1]
    if abs(size - vocabulary) > SLACK:
        raise UserError(
            f"The small pair knows {size} tokens, the large model {vocabulary}.", "Proxy tuning needs one tokenizer."
        )
    if size >= vocabulary:
        return ratios[:, :vocabulary]
    return torch.nn.functional.pad(ratios, (0, vocabulary - size))


STRONGEST = 1_000
"""Largest weight of a small pair; log-ratios times more than this are not numbers any more in half precision."""


def weights_of(config: SearchConfig) -> list[float]:
    """Return the weight of every small pair.

    Raises:
        UserError: not as many weights as pairs, or one that is no number.
    """
    pairs, odd = divmod(len(config.proxy), 2)
    if odd:
        raise UserError("--proxy takes pairs of models: the tuned and the untuned one.", "Name both of each pair.")
    try:
        alphas = [float(text) for text in config.alpha] or [1.0] * pairs
    except ValueError:
        raise UserError(f"--alpha takes numbers, not {' '.join(config.alpha)}.", "Give one for each pair.") from None
    if not all(isfinite(alpha) and abs(alpha) <= STRONGEST for alpha in alphas):
        raise UserError(f"--alpha {' '.join(config.alpha)} is no weight.", f"Give numbers of up to ±{STRONGEST:,}.")
    if len(alphas) != pairs:
        raise UserError(f"{len(alphas)} weights of --alpha for {pairs} pairs of --proxy.", "Give one for each pair.")
    return alphas
