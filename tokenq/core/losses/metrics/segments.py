"""Metrics of each segment of responses, where segments have strengths of their own.

Means of margins and of KL are over all pairs and responses, so that those of all segments add up to the whole.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tokenq.core.losses.inputs import Scene
from tokenq.core.losses.metrics import Sums, sums_of

_SQUARES = "rewards/margin_squares/"


def segment_metrics(scene: Scene, sides: Mapping[str, Tensor], seen: Tensor, *, compared: bool) -> Sums:
    """Return the part that each segment has in rewards, margins and KL(π_ref‖π), and how often it says who is chosen.

    Of a segment with strength 0 the accuracy is that of its log-ratios, which are no part of any reward.

    Args:
        scene: the batch, as the models gave it.
        sides: rows of responses by what they are called: chosen, rejected, responses.
        seen: the responses that the losses see.
        compared: whether row n of one side stands against row n of the other.
    """
    logps, reference = scene.outputs.logps, scene.outputs.ref_logps
    if not scene.segments or logps is None or reference is None:
        return {}
    numbers, found = scene.column("segments"), dict[str, Tensor]()
    ratios = (logps - reference.to(logps)).detach()
    for number, (name, strength) in enumerate(scene.segments.items()):
        own = numbers == number
        sums, tokens = (scene.actions.pad(torch.where(own, one, 0)).sums() for one in (ratios, own.to(ratios)))
        found[f"kl/{name}"] = -sums[seen]
        found |= {f"rewards/{side}/{name}": strength * sums[rows] for side, rows in sides.items()}
        if compared:
            chosen, rejected = sides.values()
            margins, has = strength * (sums[chosen] - sums[rejected]), tokens[chosen] + tokens[rejected] > 0
            found |= {f"rewards/margins/{name}": margins, f"{_SQUARES}{name}": margins.square()}
            found[f"rewards/accuracies/{name}"] = (sums[chosen] > sums[rejected])[has]
    return sums_of(found)


def with_spreads(means: dict[str, float]) -> dict[str, float]:
    """Return the means with the standard deviation of each segment's margins in place of their mean squares."""
    found = {}
    for name, value in means.items():
        segment = name.removeprefix(_SQUARES)
        if segment == name:
            found[name] = value
        else:
            found[f"rewards/margin_sd/{segment}"] = max(0.0, value - means[f"rewards/margins/{segment}"] ** 2) ** 0.5
    return found
