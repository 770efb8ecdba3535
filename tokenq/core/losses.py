"""Preference losses: pure functions of log-probs, one table at the foot of the file.

Notation: h = β-free margin = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l)), with y_w the chosen and
y_l the rejected response and log π(y) summed over the policy's own tokens. Every loss returns one value per pair (or
per response), unreduced: the training loop owns the average, so that accumulation over micro-batches is exact.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import PairLogps, TokenLogps
from tokenq.errors import UserError, unknown_name


def sft(policy: TokenLogps) -> Float[Tensor, " N"]:
    """Return −log π(y|x) of each response, summed over its tokens.

    The training loop divides by the number of tokens in the step, which gives the usual mean token cross-entropy.

    Args:
        policy: [N, T] log-probs of the responses.
    """
    return -policy.sums()


def dpo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return −log σ(β h): DPO, Eq. 7 of arXiv 2305.18290 and Eq. 9 of arXiv 2404.12358.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
    """
    return -F.logsigmoid(beta * margins(policy, reference))


def cdpo(
    policy: PairLogps, reference: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.1
) -> Float[Tensor, " B"]:
    """Return −(1−ε) log σ(β h) − ε log σ(−β h): conservative DPO.

    From Mitchell 2023, "A note on DPO with noisy preferences", Eq. 3 there. The minimum lies at σ(β h) = 1 − ε, so the
    margin stays bounded.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: KL temperature.
        label_smoothing: ε, the assumed probability that a label is flipped, in [0, 0.5].
    """
    if not 0 <= label_smoothing <= 0.5:
        raise UserError(f"label_smoothing = {label_smoothing} is no flip probability.", "Give a value in [0, 0.5].")
    h = beta * margins(policy, reference)
    return -(1 - label_smoothing) * F.logsigmoid(h) - label_smoothing * F.logsigmoid(-h)


def ipo(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return (h̄ − 1/(2β))², with log-ratios averaged per token: IPO as TRL, HALOs and LLaMA-Factory compute it.

    Eq. 17 of arXiv 2310.12036 with τ = β. The authors' own results used this per-token form (as reported by TRL);
    `ipo_sum` is the form written in the paper, which the original DPO code and OpenRLHF use.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: the paper's τ.
    """
    chosen = (policy.chosen.sums() - reference.chosen.sums()) / policy.chosen.lengths().clamp(min=1)
    rejected = (policy.rejected.sums() - reference.rejected.sums()) / policy.rejected.lengths().clamp(min=1)
    return (chosen - rejected - 1 / (2 * beta)).square()


def ipo_sum(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return (h − 1/(2β))², with summed log-ratios: IPO as written, Eq. 17 of arXiv 2310.12036 with τ = β.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: the paper's τ.
    """
    return (margins(policy, reference) - 1 / (2 * beta)).square()


def hinge(policy: PairLogps, reference: PairLogps, *, beta: float = 0.1) -> Float[Tensor, " B"]:
    """Return max(0, 1 − β h): the hinge loss of SLiC (arXiv 2305.10425) on log-ratios, as in RSO (arXiv 2309.06657).

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        beta: the inverse of the margin that is asked for.
    """
    return torch.relu(1 - beta * margins(policy, reference))


def margins(policy: PairLogps, reference: PairLogps) -> Float[Tensor, " B"]:
    """Return h = Σ_t log π/π_ref of the chosen minus that of the rejected response (without β)."""
    chosen = policy.chosen.sums() - reference.chosen.sums()
    rejected = policy.rejected.sums() - reference.rejected.sums()
    return chosen - rejected


class Loss(NamedTuple):
    """A row of the table.

    Attributes:
        function: called with the policy's log-probs, the reference's where `reference` is True, and its parameters.
        unit: what one value of the loss stands for: a pair, or a response.
        reference: whether the function takes the reference's log-probs.
    """

    function: Callable[..., Tensor]
    unit: Literal["pairs", "responses"]
    reference: bool

    def parameters(self) -> dict[str, float]:
        """Return the keyword parameters with their defaults."""
        signature = inspect.signature(self.function)
        return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}


LOSSES: dict[str, Loss] = {
    "sft": Loss(sft, "responses", reference=False),
    "dpo": Loss(dpo, "pairs", reference=True),
    "cdpo": Loss(cdpo, "pairs", reference=True),
    "ipo": Loss(ipo, "pairs", reference=True),
    "ipo_sum": Loss(ipo_sum, "pairs", reference=True),
    "hinge": Loss(hinge, "pairs", reference=True),
}

ALIASES = {"sigmoid": "dpo"}
"""TRL's spelling where it differs."""


def find_loss(name: str, parameters: Mapping[str, float] | None = None) -> Loss:
    """Return the row of `name` with its parameters bound.

    Args:
        name: a key of `LOSSES`, or TRL's spelling of one.
        parameters: values that replace defaults.

    Raises:
        UserError: for an unknown loss, or a parameter that this loss does not have.
    """
    canonical = ALIASES.get(name, name)
    if canonical not in LOSSES:
        raise unknown_name("loss", name, [*LOSSES, *ALIASES])
    loss, known = LOSSES[canonical], LOSSES[canonical].parameters()
    given = dict(parameters or {})
    for parameter in given:
        if parameter not in known:
            takes = f"It takes {', '.join(known)}." if known else "It takes no parameters."
            raise UserError(f"Loss {name!r} has no parameter {parameter!r}.", takes)
    if given.get("beta", 1.0) <= 0:
        raise UserError(f"beta = {given['beta']}, but a temperature is positive.", "The usual range is 0.01 to 0.5.")
    return loss._replace(function=functools.partial(loss.function, **given))
