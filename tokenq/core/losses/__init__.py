"""Losses: pure functions of log-probs, one table (`table.LOSSES`), and sums of them.

Every loss returns one value per pair, response or ranking, unreduced: the training loop owns the average, so that
accumulation over micro-batches is exact. One file for each kind: `pairs` sees a pair's margin alone, `anchored` both of
its log-ratios, `lengths` and `divergences` what their names say, `reference_free` no reference, `token_level` tokens,
`value` the value of the reward, `single` single responses, `dro` their rewards and a value network, `ranking` several
responses at once; `rewards` has those of reward models, which see no log-prob.
"""

from tokenq.core.losses.pairs import ipo, ipo_sum, margins
from tokenq.core.losses.sums import LossSum, LossTerm, alone, find_sum
from tokenq.core.losses.table import ALIASES, LOSSES, Loss, find_loss

__all__ = ["ALIASES", "LOSSES", "Loss", "LossSum", "LossTerm", "alone", "find_loss", "find_sum"]
__all__ += ["ipo", "ipo_sum", "margins"]
