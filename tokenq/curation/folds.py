"""Folds of a data set: every prompt, with all of its rows, is in one of them, so that none is on both sides."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenq.data.sources import prompt_hash, prompt_ranks
from tokenq.errors import UserError
from tokenq.records.examples import Text


def folds_of(prompts: Sequence[Text], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold of each row, from 0; folds differ by one prompt at most.

    Args:
        prompts: of the rows.
        folds: how many.
        seed: of the draw.

    Raises:
        UserError: there are fewer prompts than folds.
    """
    hashes = np.array([prompt_hash(prompt) for prompt in prompts], np.uint64)
    known, own = np.unique(hashes, return_inverse=True)
    if len(known) < folds:
        raise UserError(
            f"--folds is {folds}, and the pairs have {len(known)} different prompts.",
            "A fold holds one prompt or more: ask for fewer folds, or give more data.",
        )
    dealt = np.empty(len(known), np.int64)
    dealt[np.argsort(prompt_ranks(known, seed), kind="stable")] = np.arange(len(known)) % folds
    found: NDArray[np.int64] = dealt[own]
    return found
