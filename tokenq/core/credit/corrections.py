"""Weights of tokens that another distribution wrote than the one that learning takes for the old policy."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tokenq.core.credit.token_rewards import Mask, Numbers


class Correction(NamedTuple):
    """A row of `CORRECTIONS`.

    Attributes:
        weights: ([N, T] log π_old/π_writer, mask, cap) → the weight of each token.
        cap: the default.
        says: what it does with a ratio.
    """

    weights: Callable[[Tensor, Tensor, float], Tensor]
    cap: float
    says: str


ICEPOP_LEAST = 0.5
"""Tokens of a smaller ratio are left out by "icepop"."""


def _truncated(ratios: Tensor, mask: Tensor, cap: float) -> Tensor:
    return ratios.exp().clamp(max=cap)


def _sequence(ratios: Tensor, mask: Tensor, cap: float) -> Tensor:
    whole = (ratios * mask).sum(-1, keepdim=True)
    return whole.exp().clamp(max=cap).expand_as(ratios)


def _icepop(ratios: Tensor, mask: Tensor, cap: float) -> Tensor:
    weights = ratios.exp()
    return torch.where((weights >= ICEPOP_LEAST) & (weights <= cap), weights, 0.0)


def _geometric(ratios: Tensor, mask: Tensor, cap: float) -> Tensor:
    mean = (ratios * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    weights = mean.exp()
    return ((weights >= 1 / cap) & (weights <= cap)).to(ratios).expand_as(ratios)


CORRECTIONS: dict[str, Correction] = {
    "token": Correction(_truncated, 2.0, "the token's ratio, at most the cap (truncated importance sampling)"),
    "sequence": Correction(_sequence, 3.0, "the ratio of the whole response, at most the cap"),
    "icepop": Correction(_icepop, 5.0, f"the token's ratio between {ICEPOP_LEAST} and the cap, else 0 (IcePop)"),
    "geometric": Correction(
        _geometric, 1.01, "1 where the mean ratio of a token is between 1/cap and the cap, else 0 for the response"
    ),
}
"""Weights for responses that another distribution wrote than the one that learning takes for the old policy."""


def importance_weights(
    logps: Numbers, writer_logps: Numbers, mask: Mask, kind: str, cap: float | None = None
) -> Numbers:
    """Return the weight of each own token; the loss of a token, or its advantage, is multiplied with it.

    Args:
        logps: log π_old, by the trainer.
        writer_logps: log-probs of the distribution that the tokens were drawn from.
        mask: own tokens.
        kind: a key of `CORRECTIONS`.
        cap: largest weight (or ratio that is kept); None: the row's.
    """
    row = CORRECTIONS[kind]
    ratios = (logps - writer_logps).detach() * mask
    return row.weights(ratios, mask, row.cap if cap is None else cap) * mask
