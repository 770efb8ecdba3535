"""Metrics of weighted responses: how many of those to a prompt their weights speak for, and π's own."""

from collections.abc import Mapping
from typing import Any

from tokenq.core.losses.inputs import Scene, candidates
from tokenq.core.losses.metrics import Sums, sums_of
from tokenq.core.losses.policy_gradient import response_advantages
from tokenq.core.losses.ranking import candidate_ratios
from tokenq.core.steerlm import effective_samples, policy_weights


def effective_numbers(scene: Scene, parameters: Mapping[str, Any]) -> Sums:
    """Return 1/Σ w² of the weights of each prompt, and 1/Σ b² of π/π_old: near 1, a single response is learnt from.

    Where the second falls far below the number of responses, those that π_old wrote no longer stand for π's own.
    """
    rows = candidates(scene.actions)
    targets = response_advantages(scene.policy, scene.padded("target_weights"))[:, 0][rows.clamp(min=0)]
    own = policy_weights(candidate_ratios(scene.policy, scene.padded("old_logps"), rows).detach())
    targets = targets.masked_fill(rows < 0, 0.0)
    return sums_of(
        {"effective_samples/target": effective_samples(targets), "effective_samples/policy": effective_samples(own)}
    )
