"""Losses: pure functions of log-probs, one table (`table.LOSSES`), and sums of them.

Every loss returns one value per pair, response or ranking, unreduced: the training loop owns the average, so that
accumulation over micro-batches is exact. One file for each kind: `pairs` sees a pair's margin alone, `anchored` both of
its log-ratios, `lengths` and `divergences` what their names say, `reference_free` no reference, `token_level` tokens,
`value` the value of the reward, `single` single responses, `dro` their rewards and a value network, `ranking` several
responses at once; `rewards` has those of reward models, which see no log-prob.
"""

from tokenq.core.losses.anchored import both_log_ratios
from tokenq.core.losses.pairs import cdpo, dpo, hinge, ipo, ipo_sum, log_ratios, margins
from tokenq.core.losses.single import sft
from tokenq.core.losses.sums import LossSum, LossTerm, alone, find_sum
from tokenq.core.losses.table import ALIASES, LOSSES, Limit, Loss, bind, find_loss

__all__ = [
    "ALIASES",
    "LOSSES",
    "Limit",
    "Loss",
    "LossSum",
    "LossTerm",
    "alone",
    "bind",
    "both_log_ratios",
    "cdpo",
    "dpo",
    "find_loss",
    "find_sum",
    "hinge",
    "ipo",
    "ipo_sum",
    "log_ratios",
    "margins",
    "sft",
]
