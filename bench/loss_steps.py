"""What a training step costs with each loss of pairs: `python -m bench.loss_steps --model FOLDER --device cuda`.

Every loss takes steps on the same batch of random pairs, all losses in turn and in another order in every round, so
that a drift of the machine meets all alike. A step is the policy's forward, the loss with its metrics, the backward
pass and AdamW; log-probs of the reference are there before, as from the store. A loss that reads the reference's whole
distribution computes it in the step, as in training. Printed is the median over rounds of each loss's time as a
multiple of DPO's in the same round, with the 95 % interval of that median (bootstrap).
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from bench.cases import SEED, Shape
from bench.workload import random_pair
from tokenq.core.losses import LOSSES, find_sum
from tokenq.core.packing import pack
from tokenq.core.tensors import PackedBatch
from tokenq.data.stretches.steps import deciding_steps
from tokenq.files import write_json
from tokenq.models.forward.policy import frozen_model, logits_of
from tokenq.models.forward.proof import fastest_exact
from tokenq.models.load import ModelSpec, load_model
from tokenq.records.examples import TokenGroup
from tokenq.rundir import provenance
from tokenq.training.objective import Objective

BASE = "dpo"


@dataclass(frozen=True)
class Bed:
    """What all losses share.

    Attributes:
        policy: the model behind the fastest exact way.
        optimizer: AdamW over its weights.
        batch: pairs.
        longer: the same with a third response beside each pair, for losses that calibrate on one.
    """

    policy: Any
    optimizer: torch.optim.Optimizer
    batch: PackedBatch
    longer: PackedBatch


def main() -> None:
    """Measure, print the table, and write it with its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/loss_steps.json"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of every prompt")
    parser.add_argument("--response", type=int, default=128, help="tokens of every response")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--losses", nargs="*", help=f"these alone, beside {BASE}")
    asked = parser.parse_args()
    bed = build(asked)
    names = [name for name, loss in LOSSES.items() if (loss.unit, loss.output) == ("pairs", "logps")]
    steps = {name: step_of(name, bed) for name in names if not asked.losses or name in (BASE, *asked.losses)}
    times = in_turns(steps, asked.rounds, asked.device)
    print(table(times))
    write_json(asked.output, {**provenance(vars(asked) | {"output": ""}, SEED, {}), "seconds": times})


def build(asked: argparse.Namespace) -> Bed:
    """Load the model and draw the pairs."""
    model = load_model(ModelSpec(asked.model, asked.dtype, asked.device))
    policy, warnings = fastest_exact(model, max_length=asked.prompt + asked.response)
    print(f"{policy.way} attention", *warnings, sep="; ")
    rng = np.random.default_rng(SEED)
    vocabulary = model.config.get_text_config().vocab_size
    shape = Shape(asked.prompt, asked.response, asked.pairs)
    groups = [_with_everything(random_pair(shape, vocabulary, rng)) for _ in range(asked.pairs)]
    more = [_with_everything(random_pair(shape, vocabulary, rng)).responses[0] for _ in groups]
    longer = [
        TokenGroup(one.prompt_ids, (*one.responses, replace(other, role="calibration")), True, "")
        for one, other in zip(groups, more, strict=True)
    ]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-7)
    return Bed(policy, optimizer, pack(groups).to(asked.device), pack(longer).to(asked.device))


def _with_everything(group: TokenGroup) -> TokenGroup:
    """Return a pair that has what any loss reads: steps of sixteen tokens."""
    steps = [np.arange(len(response.ids), dtype=np.int32) // 16 for response in group.responses]
    return deciding_steps(group, steps)


def step_of(name: str, bed: Bed) -> Callable[[], None]:
    """Return one step of training with a loss."""
    loss = find_sum(name)
    objective = Objective(loss, loss.beta)
    batch = bed.longer if LOSSES[name].selection == "calibrated" else bed.batch
    with torch.no_grad():
        stored = bed.policy(batch).logps
    logits = logits_of(frozen_model(bed.policy)) if "ref_kls" in loss.inputs else None
    totals = objective.weights(batch.actions)

    def step() -> None:
        result = objective(bed.policy, (lambda _: stored) if loss.reference else None, batch, logits)
        objective.share(result, totals).backward()
        bed.optimizer.step()
        bed.optimizer.zero_grad(set_to_none=True)

    return step


def in_turns(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of every step; the first two rounds warm up and are left out."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for number in range(rounds + 2):
        random.Random(number).shuffle(order)
        for name in order:
            begin = _now(device)
            steps[name]()
            seconds = _now(device) - begin
            if number >= 2:
                times[name].append(seconds)
    return times


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def table(times: dict[str, list[float]]) -> str:
    """Return the times as Markdown, as multiples of DPO's."""
    base = np.array(times[BASE])
    lines = ["| loss | ms | × dpo | 95 % |", "| --- | --: | --: | --: |"]
    for name, seconds in times.items():
        ratios = np.array(seconds) / base
        low = high = 1.0
        if name != BASE:
            found = bootstrap((ratios,), np.median, method="percentile", rng=np.random.default_rng(SEED))
            low, high = found.confidence_interval
        lines.append(f"| {name} | {1000 * np.median(seconds):.1f} | {np.median(ratios):.3f} | {low:.3f}–{high:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
