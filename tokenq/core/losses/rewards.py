"""Losses of reward models: functions of the numbers r that a head gives, and of no log-prob.

Notation: r_w and r_l are the rewards of the chosen and the rejected response, each read at its last token. What is
added to both responses of a prompt changes none of the pair losses: such a reward orders the responses to one prompt
and says nothing across prompts. `regression` and `process` have targets of their own and no such freedom.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def bradley_terry(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, centre_weight: float = 0.0
) -> Float[Tensor, " B"]:
    """Return −log σ(r_w − r_l) + c (r_w + r_l)²: the model of Bradley and Terry, Eq. 1 of arXiv 2203.02155.

    The second term, of arXiv 2312.09244, pulls rewards towards 0 and leaves their order alone: c is TRL's
    `center_rewards_coefficient`, 0.01 there where it is used.

    Args:
        chosen: [B] r_w.
        rejected: [B] r_l.
        centre_weight: c.
    """
    return -F.logsigmoid(chosen - rejected) + centre_weight * (chosen + rejected).square()


def margin_bradley_terry(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], margin: Float[Tensor, " B"], *, scale: float = 1.0
) -> Float[Tensor, " B"]:
    """Return −log σ(r_w − r_l − s m): the margin loss of Llama 2, Eq. 2 of arXiv 2307.09288.

    A pair that people found clearer must be further apart. (HelpSteer2-Preference, arXiv 2410.01257, has it as one of
    its three forms.)

    Args:
        chosen: [B] r_w.
        rejected: [B] r_l.
        margin: [B] m, how much better the chosen response was rated, 0 or more.
        scale: s.
    """
    return -F.logsigmoid(chosen - rejected - scale * margin)


def scaled_bradley_terry(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], margin: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return −m log σ(r_w − r_l): scaled Bradley-Terry of HelpSteer2-Preference, arXiv 2410.01257.

    A pair of strength m counts as m pairs; the distance that the pair asks for stays that of Bradley-Terry.

    Args:
        chosen: [B] r_w.
        rejected: [B] r_l.
        margin: [B] m, how much better the chosen response was rated, 0 or more.
    """
    return -margin * F.logsigmoid(chosen - rejected)


def regression(rewards: Float[Tensor, "N A"], ratings: Float[Tensor, "N A"]) -> Float[Tensor, " N"]:
    """Return Σ_a (r_a − y_a)² of each response over the attributes that it was rated on: HelpSteer2, arXiv 2406.08673.

    The training loop divides by the number of ratings in the step, which gives the mean squared error. A rating that
    is missing adds nothing, neither to the sum nor to the number.

    Args:
        rewards: [N, A] one output for each attribute.
        ratings: [N, A] y, NaN where a response was not rated.
    """
    known = ~torch.isnan(ratings)
    # The target of a missing rating is the output itself: 0, with a gradient of 0 and not of NaN.
    return (rewards - torch.where(known, ratings.to(rewards), rewards.detach())).square().sum(-1)


def process(rewards: Float[Tensor, " N"], step_labels: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return −log σ(r) of right and −log σ(−r) of wrong steps, r read at a step's last token: a process reward model.

    Binary cross-entropy as in "Let's verify step by step", arXiv 2305.20050, with one logit in place of two: r is the
    log-odds that the step is right.

    Args:
        rewards: [N] r at the last token of each step.
        step_labels: [N] True = right.
    """
    return -F.logsigmoid(torch.where(step_labels, rewards, -rewards))
