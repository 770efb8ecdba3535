"""Does the type that a checkpoint is stored in decide what is learnt from it? One model as bfloat16 and as float32.

    python -m bench.stored_types --model GEMMA --data hh_harmless.jsonl.gz --output runs/types

trains both on the same pairs in the same order, for several seeds, evaluates them on the same held-out pairs, and says
how many weights moved and by how much the held-out margins differ, paired by row. Runs that are done are not done
again; `--most 1` does one and stops.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenq.data.files.source_language import parse_source
from tokenq.data.sources import read_rows
from tokenq.files import JsonLines, read_json, write_json, write_json_lines
from tokenq.jobs.train import train
from tokenq.models.movement import movement
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import mean_interval

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Do what is left to do, and print the comparison once all is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a model in float32")
    parser.add_argument("--data", required=True, help="pairs")
    parser.add_argument("--output", required=True, help="folder for all of it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--held-out", type=int, default=64, help="held-out pairs")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--most", type=int, help="runs that this call may do")
    asked = parser.parse_args()
    folder = Path(asked.output)
    prepare(asked, folder)
    left = [(name, seed) for seed in range(asked.seeds) for name in DTYPES if not done(folder, name, seed).exists()]
    for name, seed in left[: asked.most]:
        one_run(asked, folder, name, seed)
    if len(left) <= (asked.most or len(left)):
        report(asked, folder)


def prepare(asked: argparse.Namespace, folder: Path) -> None:
    """Write the model in both types, and the pairs in two parts; rows that fit no run are left out first."""
    if (folder / "held_out.jsonl").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    for name, dtype in DTYPES.items():
        model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [row.values for row in read_rows(parse_source(asked.data))]
    short = [row for row in rows if _usable(row, tokenizer, asked.max_length)]
    needed = asked.steps * asked.batch_size  # the reference reads all of them
    write_json_lines(folder / "train.jsonl", short[:needed])
    write_json_lines(folder / "held_out.jsonl", short[-asked.held_out :])


def _usable(row: Mapping[str, Any], tokenizer: Any, length: int) -> bool:
    sides = [str(row[side]) for side in ("chosen", "rejected")]
    answered = all(side.rpartition("\n\nAssistant:")[2].strip() for side in sides)
    return answered and all(len(tokenizer(side)["input_ids"]) < length for side in sides)


def done(folder: Path, name: str, seed: int) -> Path:
    """Return the file with the result of a run."""
    return folder / f"{name}-{seed}.json"


def one_run(asked: argparse.Namespace, folder: Path, name: str, seed: int) -> None:
    """Train once, keep the held-out responses and the count of weights that moved, and delete the rest."""
    output = folder / f"{name}-{seed}"
    shutil.rmtree(output, ignore_errors=True)
    train(
        model=str(folder / name),
        data=[str(folder / "train.jsonl")],
        eval_data=[str(folder / "held_out.jsonl")],
        output=str(output),
        bad_rows="drop",
        max_length=asked.max_length,
        max_steps=asked.steps,
        batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        warmup_ratio=0.1,
        tokens_per_batch=2048,
        keep_checkpoints=0,
        seed=seed,
        device="cpu",
    )
    place = RunDir(output)
    began = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32).state_dict()
    moved = movement(began, place.policy, asked.learning_rate, "bfloat16")
    lines = JsonLines(place.held_out).read()
    rewards = [0.1 * (line["logp"] - line["ref_logp"]) for line in lines]
    margins = [chosen - rejected for chosen, rejected in zip(rewards[::2], rewards[1::2], strict=True)]
    precision = read_json(place.provenance)["precision"]
    seconds = sum(line.get("seconds", 0.0) for line in JsonLines(place.metrics).read())
    write_json(
        done(folder, name, seed),
        {"margins": margins, "precision": precision, "seconds": seconds, **moved._asdict()},
    )
    shutil.rmtree(output)


def report(asked: argparse.Namespace, folder: Path) -> None:
    """Print the comparison."""
    found = {name: [read_json(done(folder, name, seed)) for seed in range(asked.seeds)] for name in DTYPES}
    for name, results in found.items():
        for seed, one in enumerate(results):
            moved, reach = (one[key] / one["weights"] for key in ("moved", "within_reach"))
            print(f"{name}, seed {seed}, trained in {one['precision']['weights']}: weights moved {moved:.4f}", end="; ")
            print(f"one update in bfloat16 could move {reach:.4f}", end="; ")
            print(f"held-out margin {np.mean(one['margins']):.5f}; {one['seconds']:.0f} s of training")
    margins = {name: np.array([one["margins"] for one in results]) for name, results in found.items()}
    apart = margins["bfloat16"] - margins["float32"]  # [seeds, rows]
    level = margins["float32"].mean()
    print(json.dumps({"margin": level, "difference": apart.mean(), "by seed": apart.mean(1).tolist()}))
    for what, values in (("rows, seeds averaged", apart.mean(0)), ("seeds and rows", apart.flatten())):
        found_by = mean_interval(values)
        low, high = found_by.low, found_by.high
        print(f"bfloat16 − float32, resampling {what}: {apart.mean():.3g} [{low:.3g}, {high:.3g}], n = {found_by.n}")
        print(f"of the margin: {apart.mean() / level:.2%} [{low / level:.2%}, {high / level:.2%}]")


if __name__ == "__main__":
    main()
