"""DPO with the value of its own reward in the objective: VPO, offline and online, SELM and XPO.

Preferences leave a reward free up to a constant of the prompt. Fix it by E_{y~π_cal}[r] = 0; then the optimal value of
r is J*(r) = −β E_{y~π_cal}[log π(y|x)/π_ref(y|x)] for the policy π that is optimal for r. Being optimistic or
pessimistic about the value is one more term in DPO's loss, and needs no inner maximum. (The formula is derived from the
definition of the objective, and checked in the exact world.)
"""

from jaxtyping import Float
from torch import Tensor

from tokenq.core.losses.pairs import dpo
from tokenq.core.tensors import PairLogps


def vpo_offline(
    policy: PairLogps, reference: PairLogps, calibration: Float[Tensor, " B"], *, beta: float = 0.1, alpha: float = 0.01
) -> Float[Tensor, " B"]:
    """Return DPO's loss − α β d(y_cal): pessimistic VPO, for data that is all there is; arXiv 2405.19320.

    It raises the calibration responses. With chosen ones it is DPO + α β SFT, up to a constant (`dpo+…*sft`, RPO).

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        calibration: [B] d(y_cal) = log π/π_ref of a response from π_cal to each prompt.
        beta: KL temperature.
        alpha: weight of the value; 0 is DPO.
    """
    return dpo(policy, reference, beta=beta) - alpha * beta * calibration


def vpo_online(
    policy: PairLogps, reference: PairLogps, calibration: Float[Tensor, " B"], *, beta: float = 0.1, alpha: float = 1e-3
) -> Float[Tensor, " B"]:
    """Return DPO's loss + α β d(y_cal): optimistic VPO, for rounds that sample new responses; arXiv 2405.19320.

    It lowers the calibration responses, so that the policy looks elsewhere. With responses of the reference it is
    SELM (Eq. 4.2 of arXiv 2405.19332, and its code).

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        calibration: [B] d(y_cal) = log π/π_ref of a response from π_cal to each prompt.
        beta: KL temperature.
        alpha: weight of the value; 0 is DPO.
    """
    return dpo(policy, reference, beta=beta) + alpha * beta * calibration


def xpo(
    policy: PairLogps, reference: PairLogps, calibration: Float[Tensor, " B"], *, beta: float = 0.1, alpha: float = 1e-5
) -> Float[Tensor, " B"]:
    """Return DPO's loss + α d(y_cal): XPO, arXiv 2405.21046, whose term has no β: `vpo_online` with α/β.

    The paper adds α log π(y_cal), which is this plus α log π_ref(y_cal): a number that no weight moves. Its pairs are
    one response of the policy and one of the reference, which is the calibration response as well.

    Args:
        policy: [B, T] log-probs under π.
        reference: [B, T] log-probs under π_ref.
        calibration: [B] d(y_cal) = log π/π_ref of a response of the reference to each prompt.
        beta: KL temperature.
        alpha: weight of the term; 0 is DPO.
    """
    return dpo(policy, reference, beta=beta) + alpha * calibration
