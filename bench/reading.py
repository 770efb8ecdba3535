"""Reading pairs token by token with both models: tokenq, and the usual way.

The usual way: both responses behind their prompt in one right-padded batch, full logits, log-softmax, gather, once with
each model. It gives the log-probs of the tokens and nothing else. tokenq gives ranks, entropies, divergences and, where
the setting says so, alternatives as well.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case
from bench.flops import ModelShape, model_shape
from tokenq.core.packing import pack, plan_pass
from tokenq.records.examples import TokenGroup


def run_reading(case: Case, model: str, groups: Sequence[TokenGroup]) -> tuple[dict[str, Any], ModelShape]:
    """Read all groups with two copies of the model and return what it cost, and a sum that both ways must share."""
    from tokenq.models.forward.packed_lm import bare
    from tokenq.models.forward.policy import ReferencedPolicy
    from tokenq.models.forward.proof import fastest_exact
    from tokenq.models.load import ModelSpec, load_model

    begin = time.perf_counter()
    pair = [load_model(ModelSpec(model, "float32", "cpu")) for _ in range(2)]
    shape = model_shape(bare(pair[0]))
    read: Callable[[], Iterator[Tensor]]
    if case.system == "tokenq":
        policy, reference = (fastest_exact(one)[0] for one in pair)
        both = ReferencedPolicy(policy, reference)
        whole = with_shared_prompts(groups)

        def read() -> Iterator[Tensor]:
            for places in plan_pass([group.n_tokens for group in whole], case.tokens_per_batch):
                said = both.read(pack([whole[place] for place in places]), case.top_k)
                yield torch.stack((said.logps.double().sum(), said.ref_logps.double().sum()))
    else:

        def read() -> Iterator[Tensor]:
            for start in range(0, len(groups), case.per_device):
                part = groups[start : start + case.per_device]
                yield torch.stack([padded_logps(one, part).double().sum() for one in pair])

    loaded = time.perf_counter()
    with torch.no_grad():
        total = torch.stack(list(read())).sum(0)
    done = time.perf_counter()
    return {
        "seconds": done - loaded,
        "reference_seconds": 0.0,
        "update_seconds": done - loaded,
        "load_seconds": loaded - begin,
        "reference_computed": 2 * len(groups),
        "total_logps": total.tolist(),
        "steps": [],
    }, shape


def with_shared_prompts(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """Return the groups with neighbours of one prompt put together, as rows with many responses have them."""
    merged: list[TokenGroup] = []
    for group in groups:
        if merged and merged[-1].prompt_ids.tolist() == group.prompt_ids.tolist():
            merged[-1] = replace(merged[-1], responses=(*merged[-1].responses, *group.responses), is_pair=False)
        else:
            merged.append(group)
    return merged


def padded_logps(model: Any, groups: Sequence[TokenGroup]) -> Tensor:
    """Return the log-probs of all response tokens of some pairs from full logits of right-padded rows."""
    rows = [(group.prompt_ids.tolist(), response.ids.tolist()) for group in groups for response in group.responses]
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attended, wanted = torch.zeros_like(ids), torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (prompt, response) in enumerate(rows):
        size = len(prompt) + len(response)
        ids[i, :size] = torch.tensor(prompt + response)
        attended[i, :size] = 1
        wanted[i, len(prompt) : size] = True
    logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits
    logps = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return logps[wanted[:, 1:]]
