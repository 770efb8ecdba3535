"""Credit: from rewards of responses and of tokens to advantages, as pure functions of padded tensors.

Everything is [N, T] over responses, 0 where the mask is False; the mask is True for tokens that the policy wrote, and
text of others between them is passed over. `groups` [N] says which prompt a response answers.

A baseline leaves the expected gradient alone exactly if it does not depend on the action: not on the response itself
(leave-one-out), or only on what stood before the token (a value).
"""

from tokenq.core.credit.advantages import (
    gae,
    group_relative,
    implicit_baseline,
    leave_one_out,
    prime_advantages,
    whiten,
)
from tokenq.core.credit.corrections import CORRECTIONS, Correction, importance_weights
from tokenq.core.credit.normalisation import Moments, denormalised, normalised, with_more
from tokenq.core.credit.spans import Turns, by_step, by_turn
from tokenq.core.credit.token_rewards import (
    KL_ESTIMATORS,
    kl_estimates,
    outcome_rewards,
    potential,
    returns_to_go,
    scaled,
)

__all__ = ["CORRECTIONS", "KL_ESTIMATORS", "Correction", "Turns", "by_step", "by_turn", "gae", "group_relative"]
__all__ += ["implicit_baseline", "importance_weights", "kl_estimates", "leave_one_out", "outcome_rewards"]
__all__ += ["potential", "prime_advantages", "returns_to_go", "scaled", "whiten"]
__all__ += ["Moments", "denormalised", "normalised", "with_more"]
