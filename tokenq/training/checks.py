"""Checks that stop a run: a policy that does not start as its reference, and losses that are no numbers."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import Accelerator

from tokenq.core.tensors import Actions, Outputs
from tokenq.errors import UserError
from tokenq.training.objective import BatchResult

T = TypeVar("T")


def apart_at_start(outputs: Outputs, actions: Actions, tolerance: float) -> UserError | None:
    """Return an error when policy and reference, which should be one function, give different log-probs.

    Compared is the mean difference of each response: in half precision single tokens differ by tenths of a nat between
    two passes that round differently, whole responses do not.
    """
    logps, ref_logps = outputs.logps, outputs.ref_logps
    if logps is None or ref_logps is None:
        return None
    differences = (logps - ref_logps).abs()
    means = differences.new_zeros(actions.shape[0]).index_add(0, actions.responses, differences)
    means = means / torch.bincount(actions.responses, minlength=actions.shape[0])
    response = int(means.argmax())
    if means[response] <= tolerance:
        return None
    if not means[response].isfinite():
        return UserError(
            f"What policy and reference say of {actions.origins[response]} is not finite.",
            "Weights of a training that diverged do this, and half precision may: give --dtype float32.",
        )
    worst = int(differences.masked_fill(actions.responses != response, -1.0).argmax())
    which = actions.members[response][1]
    return UserError(
        f"The policy does not start equal to its reference: a log-prob differs by {differences[worst].item():.3g} nats "
        f"({actions.origins[response]}, response {which + 1}, token {int(actions.places[worst]) + 1}: policy "
        f"{logps[worst].item():.4f}, reference {ref_logps[worst].item():.4f}).",
        "Stored values are another model's (then --reference-store off helps), or a layer draws at random in training.",
    )


def raise_together(problem: UserError | None, accelerator: Accelerator) -> None:
    """Raise a problem of any process on all of them: one that went on alone would wait for the others for ever.

    Raises:
        UserError: the process's own problem, or that another has one.
    """
    if accelerator.num_processes > 1:
        found = torch.tensor(float(problem is not None), device=accelerator.device)
        if accelerator.reduce(found, "sum").item() and problem is None:
            problem = UserError("Another process has stopped.", "Its message says why.")
    if problem is not None:
        raise problem


def together(work: Callable[[], T], accelerator: Accelerator) -> T:
    """Return the result of this process, where all of them succeed.

    Args:
        work: what this process does; no collective call is in it.
        accelerator: tells of the others.

    Raises:
        UserError: that of this process, or that another has one.
    """
    found: list[T] = []
    problem: UserError | None = None
    try:
        found.append(work())
    except UserError as error:
        problem = error
    raise_together(problem, accelerator)
    return found[0]


def without_noise(means: dict[str, float], same: bool) -> dict[str, float]:
    """Return the averages without the accuracy of rewards that are rounding noise.

    Args:
        means: of a step or an evaluation.
        same: whether policy and reference are still one function, so that every reward is 0.
    """
    noise = ("rewards/accuracies", "prm/accuracies") if same else ()
    return {name: math.nan if name.startswith(noise) else value for name, value in means.items()}


def not_finite(result: BatchResult, actions: Actions) -> list[str]:
    """Return the origins of the examples whose loss is no number."""
    found: list[str] = []
    for losses in result.losses:
        bad = (~torch.isfinite(losses.detach())).nonzero()[:, 0].tolist()
        found += [actions.origins[first] for first in _members(losses, actions, bad)]
    return list(dict.fromkeys(found))


def refuse_not_finite(failed: Sequence[str], step: int, keep: Callable[[], str], accelerator: Accelerator) -> None:
    """Stop on all processes where an example of any of them has a loss or a gradient that is no number.

    Args:
        failed: origins of this process's.
        step: updates done.
        keep: keeps what was done, and says where.
        accelerator: tells of the others.

    Raises:
        UserError: names the examples.
    """
    bad = torch.tensor(float(len(failed)), device=accelerator.device)
    if accelerator.reduce(bad, "sum").item() == 0:
        return
    rows = ", ".join(failed[:8]) + (f" and {len(failed) - 8} more" if len(failed) > 8 else "")
    raise UserError(
        f"Loss or gradient of step {step + 1} is not finite: {rows or 'rows of another process'}. {keep()}",
        "Lower --learning-rate, compute in float32, or look at these rows.",
    )


def _members(losses: torch.Tensor, actions: Actions, bad: list[int]) -> list[int]:
    """Return a response that belongs to each of the losses `bad`."""
    if not bad:
        return []
    starts = [index for index, (_, place) in enumerate(actions.members) if place == 0]
    for first in (starts, actions.of_role("chosen", "rejected").tolist(), list(range(actions.shape[0]))):
        if len(first) == len(losses):
            return [first[i] for i in bad]
    return starts  # a loss of some responses only: any of the batch may be meant
