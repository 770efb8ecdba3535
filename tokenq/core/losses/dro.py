"""Single responses with a reward each, no pairs and no labels: direct reward optimisation with a value, DRO-V.

The optimum of the KL-regularised objective is the one pair (π*, V*) with r(x, y) − V*(x) = β log π*(y|x)/π_ref(y|x) for
every response (Eq. 3 of arXiv 2405.19107, whose τ is β here). DRO-V makes the square of what is missing small (Eq. 4),
in the policy and in a value network, which share nothing. Responses may come from anybody who writes all that the
reference can write. V is no mere baseline: off-policy, without it the optimum is another.

The condition holds from every prefix on: r − V(x, y_<t) = β Σ_{k≥t} log π/π_ref, where V counts the reward of the whole
response. So a value may be asked for once, before the first token (`values=prompt`), or before each (`values=tokens`:
the mean over prefixes of the same square). The paper found several values a response better than one; the
mean is this project's choice.
"""

from jaxtyping import Float
from torch import Tensor

from tokenq.core.tensors import PrefixValues, TokenLogps


def residuals(
    policy: TokenLogps,
    reference: TokenLogps,
    rewards: Float[Tensor, " N"],
    values: PrefixValues,
    beta: float,
) -> Float[Tensor, "N T"]:
    """Return r − V(x, y_<t) − β Σ_{k≥t} log π/π_ref: 0 everywhere for π* and V*.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        rewards: [N] of whole responses.
        values: [N, T] V before each token.
        beta: KL temperature.
    """
    ratios = (policy.logps - reference.logps) * policy.mask
    ahead = ratios.flip(-1).cumsum(-1).flip(-1)
    return rewards[:, None] - values.values - beta * ahead


def dro_policy(
    policy: TokenLogps,
    reference: TokenLogps,
    rewards: Float[Tensor, " N"],
    values: PrefixValues,
    *,
    beta: float = 1.0,
) -> Float[Tensor, " N"]:
    """Return (1/2β) (r − V − β d)², the policy's part: its gradient is −(r − V − β d) ∇log π, and none for V.

    The factor 1/β is the paper's rescaling (Algorithm 1): without it the step of the policy shrinks with β.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        rewards: [N] of whole responses.
        values: [N, T] V before each token.
        beta: KL temperature, the paper's τ.
    """
    fixed = PrefixValues(values.values.detach(), values.mask)
    return _mean(residuals(policy, reference, rewards, fixed, beta).square(), values) / (2 * beta)


def dro_value(
    policy: TokenLogps,
    reference: TokenLogps,
    rewards: Float[Tensor, " N"],
    values: PrefixValues,
    *,
    beta: float = 1.0,
) -> Float[Tensor, " N"]:
    """Return ½ (r − V − β d)², the value's part: its gradient is −(r − V − β d) ∇V, and none for the policy.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        rewards: [N] of whole responses.
        values: [N, T] V before each token.
        beta: KL temperature, the paper's τ.
    """
    fixed = TokenLogps(policy.logps.detach(), policy.mask)
    return _mean(residuals(fixed, reference, rewards, values, beta).square(), values) / 2


def dro(
    policy: TokenLogps,
    reference: TokenLogps,
    rewards: Float[Tensor, " N"],
    values: PrefixValues,
    *,
    beta: float = 1.0,
) -> Float[Tensor, " N"]:
    """Return the two parts added: DRO-V, Algorithm 1 of arXiv 2405.19107. Each part moves its own network alone.

    Args:
        policy: [N, T] log-probs under π.
        reference: [N, T] log-probs under π_ref.
        rewards: [N] of whole responses, normalised over the data set.
        values: [N, T] V before each token, from a network of its own.
        beta: KL temperature, the paper's τ.
    """
    given = (policy, reference, rewards, values)
    return dro_policy(*given, beta=beta) + dro_value(*given, beta=beta)


def _mean(squares: Float[Tensor, "N T"], values: PrefixValues) -> Float[Tensor, " N"]:
    """Return the mean over the prefixes whose value counts."""
    return (squares * values.mask).sum(-1) / values.mask.sum(-1).clamp(min=1)
