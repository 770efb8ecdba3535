"""One case in a process of its own: load, train, say what it cost. Started by `bench.train_speed`.

The clock runs from the moment at which weights and token ids are in memory until the last update is done. For tokenq
this includes hashing the weights, the reference pass and writing the store; for TRL `trainer.train()`, and the
reference pass where it is precomputed. Nothing is left out as warm-up, in neither system.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.cases import BETA, LEARNING_RATE, SEED, Case
from bench.flops import ModelShape, forward_flops, model_shape, repeated_head_flops
from bench.reading import run_reading, with_shared_prompts
from bench.searching import run_search, written
from bench.workload import read_workload, write_tiny_model, write_workloads
from tokenq.core.losses.units import UNITS
from tokenq.core.packing import pack
from tokenq.core.tensors import PackedBatch, TokenScorer
from tokenq.records.examples import TokenGroup
from tokenq.training.config import TrainConfig
from tokenq.training.monitor import peak_memory
from tokenq.training.source import Offline, total_steps

MATMUL = 2048
"""Side of the square matrices whose product is the machine's peak."""


def main() -> None:
    """Do the job that the first argument names and write what it gave to the second."""
    job, result = (Path(argument) for argument in sys.argv[1:3])
    asked = json.loads(job.read_text())
    torch.set_num_threads(asked["threads"])
    result.write_text(json.dumps(prepare(asked) if asked["task"] == "prepare" else measure(asked)))


def prepare(asked: dict[str, Any]) -> dict[str, Any]:
    """Write the workloads (and the tiny model), and return what is worth knowing of them."""
    from bench.cases import QUICK, Plan

    folder = Path(asked["folder"])
    if asked["quick"]:
        write_tiny_model(Path(asked["model"]))
    plan = replace(QUICK if asked["quick"] else Plan(), **asked["sizes"])
    return write_workloads(folder, asked["model"], asked["data"], plan, asked["max_length"], asked["batch_size"])


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """Return seconds, memory, operations and the numbers of every update of one case."""
    case, folder = Case(**asked["case"]), Path(asked["folder"])
    groups = read_workload(folder / f"{case.workload}.json", case.pairs)
    config = TrainConfig(
        model=asked["model"],
        data=[case.workload],
        output=asked["output"],
        batch_size=asked["batch_size"],
        tokens_per_batch=max(1, case.tokens_per_batch),
        learning_rate=LEARNING_RATE,
        epochs=case.epochs,
        beta=BETA,
        seed=SEED,
        keep_checkpoints=0,
        device=asked["device"],
        dtype=asked["dtype"],
    )
    load_average = os.getloadavg()[0]
    peak_before = matmul_rate(4, config)
    whole, passes = groups, 3  # a training step is worth three forward passes
    if case.section == "score":
        measured, shape = run_reading(case, asked["model"], groups)
        whole, passes = with_shared_prompts(groups), 1
    elif case.section == "search":
        measured, shape = run_search(case, asked["model"], groups)
        whole, passes = written(case, groups), 1
    else:
        run = run_tokenq if case.system == "tokenq" else run_trl
        measured, shape = run(case, config, groups, folder)
    measured["peak_memory"] = peak_memory(torch.device(config.device))
    needed = forward_flops(shape, pack(whole))
    # The reference is wanted once however often the data is passed over; whoever computes it again does more than is
    # needed. A warm store needs none.
    references = 0 if measured["reference_computed"] == 0 else 1
    return {
        "case": case.to_dict(),
        "tokens": sum(group.n_tokens for group in whole) * case.epochs,
        "needed": {
            "updates": passes * needed * case.epochs,
            "reference": needed * references,
        },
        "matmul_rate": max(peak_before, matmul_rate(6, config)),
        "load_average": load_average,
        **measured,
    }


def matmul_rate(times: int, config: TrainConfig) -> float:
    """Return the best rate of some products of two square matrices, in operations a second."""
    place = {"device": config.device, "dtype": getattr(torch, config.dtype)}
    a, b = torch.rand(MATMUL, MATMUL, **place), torch.rand(MATMUL, MATMUL, **place)
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the accelerator
        best = min(best, time.perf_counter() - begin)
    return 2 * MATMUL**3 / best


def run_tokenq(
    case: Case, config: TrainConfig, groups: list[TokenGroup], folder: Path
) -> tuple[dict[str, Any], ModelShape]:
    """Train with tokenq as its command line does, without writing checkpoints."""
    from accelerate import Accelerator

    from tokenq.core.losses import find_sum
    from tokenq.models.forward.packed_lm import bare
    from tokenq.models.forward.policy import frozen_model, no_grad
    from tokenq.models.forward.proof import fastest_exact
    from tokenq.models.identity import identify
    from tokenq.models.load import ModelSpec, load_model
    from tokenq.models.reference_store import ReferenceStore
    from tokenq.rundir import create_run
    from tokenq.training.job import Job
    from tokenq.training.loop import fit
    from tokenq.training.objective import Objective

    begin = time.perf_counter()
    model = load_model(ModelSpec(config.model, config.dtype, config.device))
    lm, warnings = fastest_exact(model, max_length=max(_lengths(groups)))
    accelerator, run = Accelerator(cpu=config.device == "cpu"), create_run(config.output)
    shape, repeated = model_shape(bare(model)), 0

    def work(batch: PackedBatch) -> tuple[int, int]:
        nonlocal repeated
        repeated += repeated_head_flops(shape, batch, lm.keep_bytes)
        return lm.work(batch)

    loaded = time.perf_counter()
    reference: TokenScorer | None = None
    if case.reference == "store":
        store = ReferenceStore(folder / "stores" / case.store, identify(model, config.model))
        model.eval()
        computed = store.fill(groups, no_grad(lm), config.tokens_per_batch)
        groups = store.with_logps(groups)
    else:
        reference, computed = no_grad(frozen_model(lm)), 2 * len(groups) * case.epochs
    referenced = time.perf_counter()
    lm.accumulate_in_place()
    objective = Objective(find_sum("dpo", {"beta": BETA}), BETA)
    job = Job(lm, _source(groups, config), objective, config, run, reference=reference, start_tolerance=1e-2, work=work)
    fit(job, accelerator)
    done = time.perf_counter()
    steps = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {
        "seconds": done - loaded,
        "reference_seconds": referenced - loaded,
        "update_seconds": done - referenced,
        "load_seconds": loaded - begin,
        "reference_computed": computed,
        "repeated": repeated,
        "way": lm.way,
        "warnings": warnings,
        "steps": steps,
    }, shape


def _source(groups: list[TokenGroup], config: TrainConfig) -> Offline:
    return Offline(groups, UNITS["pairs"], config.batch_size, config.seed)


def run_trl(
    case: Case, config: TrainConfig, groups: list[TokenGroup], folder: Path
) -> tuple[dict[str, Any], ModelShape]:
    """Train with TRL's `DPOTrainer` on the same token ids in the same order, everything else at its defaults.

    Float32, no mixed precision, and gradient checkpointing as the case says; the reference is TRL's own second model.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    reference_seconds = 0.0

    class Trainer(DPOTrainer):
        """TRL's trainer, given token ids (the comparison of tokenisers is a test), and timed where it precomputes."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, *arguments: Any) -> Any:
            nonlocal reference_seconds
            begin = time.perf_counter()
            dataset = super()._precompute_ref_logps(*arguments)
            reference_seconds = time.perf_counter() - begin
            return dataset

    arguments = DPOConfig(**trl_settings(case, config, groups))
    source = _source(groups, config)
    order = [part.place for step in range(total_steps(config, source.per_epoch)) for part in source.step(step)]
    rows = [
        {
            "prompt_ids": groups[place].prompt_ids.tolist(),
            "chosen_ids": groups[place].responses[0].ids.tolist(),
            "rejected_ids": groups[place].responses[1].ids.tolist(),
        }
        for place in order
    ]
    begin = time.perf_counter()
    trainer = Trainer(model=config.model, args=arguments, train_dataset=Dataset.from_list(rows))
    loaded = time.perf_counter()
    trainer.train()
    done = time.perf_counter()
    return {
        "seconds": done - loaded + reference_seconds,
        "reference_seconds": reference_seconds,
        "update_seconds": done - loaded,
        "load_seconds": loaded - begin - reference_seconds,
        "reference_computed": 2 * len(groups) * case.epochs,
        "steps": [record for record in trainer.state.log_history if "loss" in record],
    }, model_shape(trainer.model)


def trl_settings(case: Case, config: TrainConfig, groups: list[TokenGroup]) -> dict[str, Any]:
    """Return TRL's settings for the same updates: no mixed precision, nothing saved, rows in the order given."""
    return {
        "output_dir": config.output,
        "beta": BETA,
        "per_device_train_batch_size": case.per_device,
        "gradient_accumulation_steps": config.batch_size // case.per_device,
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": 1,  # the rows already follow one another as often as they are seen
        "max_length": max(_lengths(groups)),
        "train_sampling_strategy": "sequential",
        "precompute_ref_log_probs": case.reference == "precomputed",
        "gradient_checkpointing": case.checkpointing,
        "model_init_kwargs": {"dtype": config.dtype},
        "use_cpu": config.device == "cpu",
        "bf16": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _lengths(groups: list[TokenGroup]) -> list[int]:
    return [len(group.prompt_ids) + len(response.ids) for group in groups for response in group.responses]


if __name__ == "__main__":
    main()
