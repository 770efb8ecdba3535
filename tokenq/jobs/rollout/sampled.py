"""What a writer has sampled, before it is judged: how old it is, and what the policy itself says of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tokenq.core.packing import pack
from tokenq.core.tensors import TokenScorer
from tokenq.errors import UserError
from tokenq.records.examples import TokenGroup, TokenResponse
from tokenq.records.rollouts import Rollout


def not_stale(rollouts: Sequence[Rollout], version: int, most: int) -> list[Rollout]:
    """Return the responses to a prompt that are not too old; none where what calibrates them is.

    Args:
        rollouts: the responses.
        version: of the policy.
        most: updates that a response may be behind it.
    """
    kept = [one for one in rollouts if version - one.version <= most]
    return [] if any(one.calibrates for one in rollouts) and not any(one.calibrates for one in kept) else kept


def refuse_all_stale(every: Sequence[Sequence[Rollout]], kept: Sequence[Sequence[Rollout]], most: int) -> None:
    """Refuse a batch of which nothing is left.

    Raises:
        UserError: every response is too old.
    """
    if any(every) and not any(kept):
        oldest = min(one.version for some in every for one in some)
        raise UserError(
            f"Every response of a batch is more than {most} updates behind the policy: it was written by version "
            f"{oldest}.",
            "Look at the server's log and at what --sync does there; --max-staleness N allows N updates.",
        )


def token_logps(
    scorer: TokenScorer, device: str, prompt: tuple[int, ...], responses: Sequence[TokenResponse]
) -> list[list[float]]:
    """Return log π of each token that the policy wrote of some responses to one prompt."""
    batch = pack([TokenGroup(np.array(prompt, np.int32), tuple(responses), False, "a pair")]).to(device)
    flat: list[float] = scorer(batch).float().tolist()
    sizes = [int(one.mask.sum()) for one in responses]
    return [flat[end - size : end] for size, end in zip(sizes, np.cumsum(sizes).tolist(), strict=True)]


def with_model_logps(rollouts: Sequence[Rollout], scorer: TokenScorer, device: str) -> list[Rollout]:
    """Return responses whose log-probs are the policy's, for numbers that are expectations under it.

    Args:
        rollouts: the responses.
        scorer: log π of the policy that they are held to.
        device: where it computes.
    """
    found = []
    for one in rollouts:
        if one.logps_of == "sampler":
            ((*logps,),) = token_logps(scorer, device, one.prompt_ids, [one.tokens("plain")])
            one = replace(one, logps=one.spread(logps), logps_of="model")
        found.append(one)
    return found
