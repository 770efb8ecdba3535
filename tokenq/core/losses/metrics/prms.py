"""Metrics of an implicit process reward model: how often it tells right from wrong, and by how much."""

from collections.abc import Mapping
from typing import Any

from tokenq.core.losses.inputs import Scene
from tokenq.core.losses.metrics import Sums, sums_of
from tokenq.core.qfunction import sequence_rewards


def outcome_metrics(scene: Scene, parameters: Mapping[str, Any]) -> Sums:
    """Return β Σ log φ/π_ref of right and of wrong responses, and how often its sign says which they are."""
    outcomes = scene.column("outcomes")
    if scene.reference is None:
        return {}
    rewards = sequence_rewards(scene.prm, scene.reference, parameters["beta"]).detach()
    right, wrong = outcomes > RIGHT, outcomes <= RIGHT  # no outcome, of what is only read beside others, is neither
    found = {"rewards/right": rewards[right], "rewards/wrong": rewards[wrong]}
    known = right | wrong
    found["accuracies"] = (rewards > 0)[known] == right[known]
    return sums_of({f"prm/{name}": value for name, value in found.items()})


RIGHT = 0.5
"""The outcome above which a response counts as right."""
