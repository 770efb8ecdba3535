"""Metrics of the value network that is trained beside the policy: its loss, its mean, the variance it explains."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenq.core.losses.dro import residuals
from tokenq.core.losses.inputs import INPUTS, Scene
from tokenq.core.losses.metrics import Sums
from tokenq.core.tensors import PrefixValues

_MOMENTS = ("residual", "target", "squared_target")


def values_of_rewards(scene: Scene, parameters: Mapping[str, Any]) -> Sums:
    """Return the sums for V with the target r − β Σ_{k≥t} log π/π_ref, DRO's."""
    values, rewards = _values(scene, parameters), INPUTS["rewards"].sources["data"](scene)
    if scene.reference is None:
        return {}
    return _sums(residuals(scene.policy, scene.reference, rewards, values, scene.beta), values)


def values_of_returns(scene: Scene, parameters: Mapping[str, Any]) -> Sums:
    """Return the sums for V with the returns of the data as its target."""
    values = _values(scene, parameters)
    return _sums(scene.padded("returns") - values.values, values)


def _values(scene: Scene, parameters: Mapping[str, Any]) -> PrefixValues:
    found: PrefixValues = INPUTS["values"].sources[parameters["values"]](scene)
    return found


def _sums(errors: Tensor, values: PrefixValues) -> Sums:
    """Return sums over the prefixes whose value counts: V, ½ (target − V)², and what the explained variance takes.

    Args:
        errors: [N, T] target − V.
        values: V.
    """
    errors, held = errors.detach()[values.mask], values.values.detach()[values.mask]
    targets, count = errors + held, len(held)
    sums = {"loss": errors.square().sum() / 2, "mean": held.sum()}
    sums |= {name: moment.sum() for name, moment in zip(_MOMENTS, (errors, targets, targets.square()), strict=True)}
    return {f"values/{name}": (value, count) for name, value in sums.items()}


def with_explained_variance(means: dict[str, float]) -> dict[str, float]:
    """Return the means with 1 − Var(target − V)/Var(target) in place of the moments that it is made of.

    1: the values say all; 0: no more than a constant; below 0: less than a constant. Not a number where the targets do
    not vary.
    """
    if "values/loss" not in means:
        return means
    residual, target, squared = (means[f"values/{name}"] for name in _MOMENTS)
    left, total = 2 * means["values/loss"] - residual**2, squared - target**2
    kept = {name: value for name, value in means.items() if name.removeprefix("values/") not in _MOMENTS}
    return {**kept, "values/explained_variance": 1 - left / total if total > 0 else float("nan")}
