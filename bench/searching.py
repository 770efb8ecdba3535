"""Answers searched for and drawn: tokenq, and transformers' `generate` on the same prompts.

Both write the same number of tokens behind every prompt, since no token ends a response. `generate` gets all prompts,
which are of one length, as one batch. Before the clock starts each system writes two tokens behind every prompt in the
same way as it will then write all of them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from bench.cases import BETA, SEED, Case
from bench.flops import ModelShape, model_shape
from tokenq.records.examples import TokenGroup

WARM_UP = 2
"""Tokens that are written before the clock starts."""

Ids = list[list[int]]
Write = Callable[[Sequence[Sequence[int]], int], Ids]
"""(prompts, tokens to write) → for every prompt its best response; all samples where it is sampled."""


def run_search(case: Case, model: str, groups: Sequence[TokenGroup]) -> tuple[dict[str, Any], ModelShape]:
    """Write behind the prompts of all groups, as many tokens as their responses have; return what it cost."""
    from tokenq.models.forward.packed_lm import bare
    from tokenq.models.load import ModelSpec, load_model

    begin = time.perf_counter()
    policy = load_model(ModelSpec(model, "float32", "cpu"))
    shape = model_shape(bare(policy))
    if case.system == "tokenq":
        reference = load_model(ModelSpec(model, "float32", "cpu")) if case.method == "reward beams" else None
        write = tokenq_writer(case, policy, reference)
    else:
        write = generate_writer(case, policy)
    prompts, size = [group.prompt_ids.tolist() for group in groups], len(groups[0].responses[0].ids)
    with torch.no_grad():
        write(prompts, WARM_UP)
        loaded = time.perf_counter()
        found = write(prompts, size)
    done = time.perf_counter()
    if any(len(response) != size for response in found):
        raise ValueError(f"{size} tokens are asked for, {[len(response) for response in found]} are written")
    return {
        "seconds": done - loaded,
        "reference_seconds": 0.0,
        "update_seconds": done - loaded,
        "load_seconds": loaded - begin,
        "reference_computed": len(groups) * (case.method == "reward beams"),
        "tokens": sum(len(response) for response in found),
        "found": found,
        "steps": [],
    }, shape


def written(case: Case, groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Return the groups with as many responses as are written behind each prompt, kept or not."""
    return [replace(group, responses=group.responses[:1] * case.count, is_pair=False) for group in groups]


def tokenq_writer(case: Case, policy: Any, reference: Any) -> Write:
    """Return how tokenq writes; the reference, where there is one, runs beside the policy in every step."""
    from tokenq.models.forward.proof import fastest_exact
    from tokenq.models.forward.stepper import ModelStepper
    from tokenq.search.beam import beam_search
    from tokenq.search.branches import Branch, Limits, Walk
    from tokenq.search.guidance import OBJECTIVES
    from tokenq.search.sampling import greedy, sample
    from tokenq.search.settings import Beams

    lms = [fastest_exact(one)[0] for one in (policy, reference) if one is not None]
    methods: dict[str, Callable[[Walk], list[list[Branch]]]] = {
        "greedy": greedy,
        "samples": lambda walk: sample(walk, count=case.count, seed=SEED),
        "beams": lambda walk: beam_search(walk, Beams(case.count)),
        "reward beams": lambda walk: beam_search(walk, Beams(case.count), OBJECTIVES["reward"], BETA),
    }
    search, kept = methods[case.method], case.count if case.method == "samples" else 1

    def write(prompts: Sequence[Sequence[int]], size: int) -> Ids:
        found = search(Walk(ModelStepper(*lms), prompts, Limits((), size)))
        return [list(branch.tokens) for branches in found for branch in branches[:kept]]

    return write


def generate_writer(case: Case, policy: Any) -> Write:
    """Return how transformers writes, everything else at its defaults."""
    from transformers import GenerationConfig

    ways = {
        "greedy": {"do_sample": False},
        "samples": {"do_sample": True, "top_k": 0, "num_return_sequences": case.count},
        "beams": {"do_sample": False, "num_beams": case.count},
    }
    # The model's own settings would fill in its EOS.
    policy.generation_config = GenerationConfig(pad_token_id=0)

    def write(prompts: Sequence[Sequence[int]], size: int) -> Ids:
        torch.manual_seed(SEED)
        ids = torch.tensor([list(prompt) for prompt in prompts])
        config = GenerationConfig(pad_token_id=0, max_new_tokens=size, **ways[case.method])
        rows: Ids = policy.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config).tolist()
        return [row[ids.shape[1] :] for row in rows]

    return write
