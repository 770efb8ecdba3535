"""Log-probs to try losses on: by hand, or random with masks that have holes; and what a loss of any kind takes."""

import math

import torch

from tokenq.core.losses import LOSSES
from tokenq.core.tensors import PairLogps, PairValues, TokenLogps


def rows(*values, width=4):
    """Return log-probs of responses of several lengths, padded to one width."""
    padded = torch.zeros(len(values), width, dtype=torch.float64)
    mask = torch.zeros(len(values), width, dtype=torch.bool)
    for i, row in enumerate(values):
        padded[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        mask[i, : len(row)] = True
    return TokenLogps(padded, mask)


def values(chosen, rejected):
    """Return numbers beside the tokens of one pair."""
    return PairValues(rows(chosen).logps, rows(rejected).logps)


def swapped(pair):
    """Return chosen for rejected, in log-probs, or in what stands beside them."""
    if isinstance(pair, PairLogps | PairValues):
        return type(pair)(pair.rejected, pair.chosen)
    return pair


def softplus(x):
    """Return log(1 + e^x) = −log σ(−x), without torch."""
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def random_pairs(seed, n=5, width=6):
    """Return the log-probs of n pairs under two models, with masks that have holes and differ in length."""
    generator = torch.Generator().manual_seed(seed)

    def one(mask):
        drawn = -torch.rand(n, width, generator=generator, dtype=torch.float64) * 3
        return TokenLogps(drawn * mask, mask)

    masks = [torch.rand(n, width, generator=generator) < 0.7 for _ in range(2)]
    for mask in masks:
        mask[:, 0] = True
    return PairLogps(*map(one, masks)), PairLogps(*map(one, masks))


def random_inputs(name, policy, seed=0):
    """Return what the loss takes besides log-probs, for as many pairs."""
    generator = torch.Generator().manual_seed(seed)
    n, width = policy.chosen.logps.shape

    def drawn(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    made = {
        "calibration": lambda: drawn(n) - 0.5,
        "steps": lambda: PairValues(*(torch.ones(n, width, dtype=torch.float64) for _ in range(2))),
        "ref_kls": lambda: PairValues(drawn(n, width), drawn(n, width)),
        "overlaps": lambda: PairValues(-drawn(n, width), -drawn(n, width)),
    }
    return [made[need]() for need in LOSSES[name].inputs]


def called(name, policy, reference, *inputs, loss=None):
    """Return the values of a loss of the table (or of a bound row), given all that any loss might take."""
    row = loss or LOSSES[name]
    models = (policy, reference) if row.reference else (policy,)
    return row.function(*models, *inputs)


def map_pairs(function, pairs):
    return PairLogps(function(pairs.chosen), function(pairs.rejected))
