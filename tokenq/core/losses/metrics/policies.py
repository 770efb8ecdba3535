"""Metrics of policy gradients: entropy, the distance to the old policy and to the reference, shares of clipped ratios.

Names are TRL's where it has the number.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tokenq.core.credit import KL_ESTIMATORS, kl_estimates
from tokenq.core.losses.inputs import Scene
from tokenq.core.losses.metrics import Sums, sums_of
from tokenq.core.losses.policy_gradient import mean_ratios, response_advantages, sequence_ratios, token_ratios
from tokenq.core.tensors import TokenLogps

Parameters = Mapping[str, Any]
Ratios = Callable[[TokenLogps, Tensor], Tensor]


def rollout_metrics(scene: Scene) -> Sums:
    """Return what holds whatever the loss: entropy, ratio and KL(π_old‖π) a token, and KL(π‖π_ref) where it is known.

    All are estimated on the tokens at hand, which π_old wrote: the entropy as −log π of a token, both KL by three
    estimators. `kl` is Σ log π/π_ref of a response.
    """
    policy, mask = scene.policy, scene.policy.mask
    logps = policy.logps.detach()
    found = {"entropy": -logps[mask]}
    if "old_logps" in scene.actions.token_columns:
        old = scene.padded("old_logps")
        found["ratio"] = (logps - old)[mask].exp()
        found |= {f"kl_old/{name}": kl_estimates(old, logps, name)[mask] for name in KL_ESTIMATORS}
    if scene.reference is not None:
        ref = scene.reference.logps
        found |= {f"kl/{name}": kl_estimates(logps, ref, name)[mask] for name in KL_ESTIMATORS}
        found["kl"] = ((logps - ref) * mask).sum(-1)
    return sums_of(found)


def _outside(scene: Scene, parameters: Parameters, ratios: Ratios) -> tuple[Tensor, Tensor]:
    """Return True where min(ρ A, clip(ρ) A) has no gradient: below the range with A < 0, above it with A > 0."""
    logs = ratios(scene.policy, scene.padded("old_logps")).detach()
    advantages = scene.padded("advantages")
    if logs.shape[1] == 1:
        advantages = response_advantages(scene.policy, advantages)
    low = (logs.exp() < 1 - parameters["clip_low"]) & (advantages < 0)
    return low, (logs.exp() > 1 + parameters["clip_high"]) & (advantages > 0)


def _shares(low: Tensor, high: Tensor) -> Sums:
    return sums_of({"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": low | high})


def clipped_tokens(scene: Scene, parameters: Parameters) -> Sums:
    """Return the shares of tokens whose ratio is clipped."""
    low, high = _outside(scene, parameters, token_ratios)
    return _shares(low[scene.policy.mask], high[scene.policy.mask])


def clipped_responses(scene: Scene, parameters: Parameters) -> Sums:
    """Return the shares of responses whose ratio is clipped."""
    low, high = _outside(scene, parameters, sequence_ratios)
    return _shares(low[:, 0], high[:, 0])


def clipped_means(scene: Scene, parameters: Parameters) -> Sums:
    """Return the shares of tokens that are clipped by the mean ratio of their response, as means over responses."""
    outside = _outside(scene, parameters, mean_ratios)
    low, high = (response_advantages(scene.policy, side.to(scene.policy.logps))[:, 0] for side in outside)
    return sums_of({"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": low + high})


def capped_tokens(scene: Scene, parameters: Parameters) -> Sums:
    """Return the share of tokens that are to be raised and whose weight is at its cap."""
    mask = scene.policy.mask
    ratios = token_ratios(scene.policy, scene.padded("old_logps")).detach()
    capped = (ratios.exp() > parameters["cap"]) & (scene.padded("advantages") > 0)
    return sums_of({"cispo_clip_ratio": capped[mask]})
