"""The watch of those who learn from episodes: whether the policy still plays what its pairs have shown."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator

from tokenq.core.packing import pack, plan_pass
from tokenq.core.tensors import TokenScorer
from tokenq.files import JsonLines
from tokenq.jobs.training.reference import autocast
from tokenq.models.forward.packed_lm import PackedLM
from tokenq.models.forward.policy import no_grad
from tokenq.records.examples import Action, TokenGroup
from tokenq.stats.coverage import Coverage, Shown, coverage_of
from tokenq.training.job import Job
from tokenq.training.source import Offline

PAIRS = 256
"""Pairs that are read again."""


def covered(groups: Sequence[TokenGroup], policy: TokenScorer, budget: int, device: str) -> Coverage | None:
    """Return how much of what policy and reference play the first pairs show; None where these tell no log π_ref.

    Args:
        groups: pairs of episodes, with the token column `ref_logps` where the loss reads it.
        policy: log π as it is now.
        budget: most tokens of a forward.
        device: where it computes.
    """
    pairs = [group for group in islice(groups, PAIRS) if group.is_pair and _told(group)]
    return coverage_of(_shown(pairs, policy, budget, device)) if pairs else None


def _told(group: TokenGroup) -> bool:
    return all("ref_logps" in one.token_columns for one in group.responses[:2])


def _shown(pairs: Sequence[TokenGroup], policy: TokenScorer, budget: int, device: str) -> Iterator[Shown]:
    for places in plan_pass([group.n_tokens for group in pairs], budget):
        some = [pairs[place] for place in places]
        batch = pack(some).to(device)
        with torch.no_grad():
            sums = iter(batch.actions.pad(policy(batch).float()).sums().tolist())
        for group in some:
            for number, one in enumerate(group.responses):
                own, reference = next(sums), one.token_columns.get("ref_logps")
                if number < 2 and reference is not None:
                    told = float(np.sum(reference[one.mask], dtype=np.float64))
                    yield Shown(group.prompt_ids.tobytes(), one.ids.tobytes(), own, told)


def watch_episodes(job: Job, policy: PackedLM, step: int, accelerator: Accelerator) -> None:
    """Record, and say, whether a policy has left the stored episodes of its pairs; of any other data, nothing.

    Before the policy is written: writing gives its model back the attention that it came with.

    Args:
        job: what was trained.
        policy: as it is now.
        step: updates that it has seen.
        accelerator: a policy over several processes is not read.
    """
    # What a language model learns from is text.
    groups = cast(Sequence[TokenGroup], job.source.groups) if isinstance(job.source, Offline) else ()
    if accelerator.num_processes > 1 or not _of_episodes(groups):
        return
    scorer = autocast(no_grad(policy), accelerator)
    found = covered(groups, scorer, job.config.tokens_per_batch, str(accelerator.device))
    if found is not None:
        JsonLines(job.run.metrics).append({"step": step, **coverage_numbers(found)})
        for line in said_of_coverage(found):
            job.listener.say(line)


def _of_episodes(groups: Sequence[TokenGroup]) -> bool:
    """Return whether the responses of the first group are what was done in an environment."""
    given = [one.given for group in islice(groups, 1) for one in group.responses]
    contents = [one.content for one in given if one is not None and not isinstance(one.content, str)]
    return any(isinstance(turn, Action) for turns in contents for turn in turns)


def coverage_numbers(found: Coverage) -> dict[str, float | None]:
    """Return a coverage as `metrics.jsonl` has it, under `covered/`; None where an interval has no ends."""
    ends = {"change_low": found.change.low, "change_high": found.change.high}
    return {
        "covered/episodes": float(found.episodes),
        "covered/policy": found.policy,
        "covered/reference": found.reference,
        "covered/change": found.change.value,
        **{f"covered/{name}": None if np.isnan(end) else end for name, end in ends.items()},
    }


def said_of_coverage(found: Coverage) -> list[str]:
    """Return what is to be said of it: nothing where the pairs show as much of the policy as of its reference."""
    if not found.lost:
        return []
    return [
        f"warning: the policy moves to episodes that its pairs do not show: {found.policy:.3g} of what it plays is "
        f"among their {found.episodes}, and {found.reference:.3g} of what its reference plays; it may fall below that. "
        "Take more pairs, a larger --beta or fewer updates, and play it: tokenq play"
    ]
