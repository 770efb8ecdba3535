"""Metrics of the value network that is trained beside the policy: its loss, its mean, the variance it explains."""

from tokenq.core.losses.dro import residuals
from tokenq.core.losses.inputs import INPUTS, Scene
from tokenq.core.losses.units import Sums

_MOMENTS = ("residual", "target", "squared_target")


def value_sums(scene: Scene, source: str) -> Sums:
    """Return sums over the prefixes whose value counts: V, ½ (target − V)², and what the explained variance takes.

    The target of V is r − β Σ_{k≥t} log π/π_ref.

    Args:
        scene: a batch with what the models say of it.
        source: which values, a source of the input `values`.
    """
    values, rewards = (INPUTS[name].sources[key](scene) for name, key in (("values", source), ("rewards", "data")))
    if scene.reference is None:
        return {}
    errors = residuals(scene.policy, scene.reference, rewards, values, scene.beta).detach()[values.mask]
    held = values.values.detach()[values.mask]
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
