"""Compare steps with cached keys and values against whole rows."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.stepper import Caching, Rereading

PROMPTS = (3, 9)
"""Tokens of the prompts from which the steps begin."""


@torch.no_grad()
def differences_of_steps(lm: PackedLM) -> Float[Tensor, "M V"]:
    """Return the differences between next-token log-probs from cached keys and values and from whole rows.

    Both prompts are gone on from; a branch is taken twice, and branches of two steps are put together.

    Args:
        lm: a model whose layers share prompts, in a way that is exact for whole rows.
    """
    rng = np.random.default_rng(1)
    size = lm.lm.config.get_text_config().vocab_size
    prompts = [tuple(rng.integers(0, size, n).tolist()) for n in PROMPTS]
    kept, whole = Caching(lm), Rereading(lm)
    ours, theirs = kept.start(prompts), whole.start(prompts)
    found = [ours[0] - theirs[0]]
    earlier = ours[1], theirs[1]
    for parents in ([0, 1, 1], [2, 0, 1]):
        at, tokens = torch.tensor(parents), torch.from_numpy(rng.integers(0, size, len(parents)))
        ours, theirs = kept.step(ours[1], at, tokens), whole.step(theirs[1], at, tokens)
        found.append(ours[0] - theirs[0])
    at, tokens = torch.tensor([0, 1]), torch.from_numpy(rng.integers(0, size, 2))
    ours = kept.step(kept.gather([(ours[1], 2), (earlier[0], 0)]), at, tokens)
    theirs = whole.step(whole.gather([(theirs[1], 2), (earlier[1], 0)]), at, tokens)
    found.append(ours[0] - theirs[0])
    return torch.cat(found).abs()
