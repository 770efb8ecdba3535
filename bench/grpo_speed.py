"""GRPO updates: tokenq beside TRL's `GRPOTrainer`, writing and updating apart, each in its own process.

    python -m bench.grpo_speed MODEL --prompts 8 --samples 8 --tokens 32 --updates 3

Both write to the same prompts with the same number of tokens at most, in float32, without a reference, without
gradient checkpointing, and learn from every response once. The reward is the share of digits in a response, which no
system can compute faster than the other. Seconds are means over the updates behind the first.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEARNING_RATE = 1e-6


def main() -> None:
    """Measure both systems in turns, and print a line for each and the ratios."""
    asked = _arguments()
    if asked.system:
        print(json.dumps({"trl": _trl, "tokenq": _tokenq}[asked.system](asked)))
        return
    found: dict[str, list[dict[str, float]]] = {"trl": [], "tokenq": []}
    for _ in range(asked.repetitions):
        for system, results in found.items():
            words = [sys.executable, "-m", "bench.grpo_speed", *sys.argv[1:], "--system", system]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(system, results[-1], flush=True)
    best = {name: min(results, key=lambda one: one["whole"]) for name, results in found.items()}
    ratios = {key: round(best["trl"][key] / best["tokenq"][key], 2) for key in best["trl"] if best["tokenq"][key]}
    print("trl / tokenq", ratios)


def digits(responses: list[str]) -> list[float]:
    """Return the share of digits in each response."""
    return [sum(one.isdigit() for one in text) / max(1, len(text)) for text in responses]


def _prompts(asked: argparse.Namespace) -> list[str]:
    lines = Path(asked.data).read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines[: asked.prompts]]


def _tokenq(asked: argparse.Namespace) -> dict[str, float]:
    import torch

    import tokenq
    from tokenq.files import JsonLines
    from tokenq.jobs.rollout.clock import PHASES

    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "digits.py").write_text(
            "from bench.grpo_speed import digits\n\ndef reward(prompts, responses):\n    return digits(responses)\n"
        )
        tokenq.online(
            asked.model,
            [{"prompt": prompt} for prompt in _prompts(asked)],
            Path(place) / "run",
            method="grpo",
            kl="none",
            judge=f"{place}/digits.py:reward",
            rounds=asked.updates,
            samples=asked.samples,
            max_new_tokens=asked.tokens,
            batch_size=asked.prompts * asked.samples,
            tokens_per_batch=asked.tokens_per_batch,
            learning_rate=LEARNING_RATE,
            schedule="constant",
            dtype="float32",
            device="cpu",
            keep_checkpoints=0,
        )
        every = list(JsonLines(Path(place) / "run" / "metrics.jsonl").read())
    lines = [line for line in every if "seconds/writer" in line]
    written = [line["round/written_tokens"] for line in every if "round/written_tokens" in line]
    parts = {name: statistics.mean(line[f"seconds/{name}"] for line in lines[1:]) for name in PHASES}
    return _numbers(parts["writer"], parts["trainer"], sum(parts.values()), statistics.mean(written[1:]))


def _trl(asked: argparse.Namespace) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(asked.threads)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype="float32")
    spent, ends = list[float](), list[float]()
    tokens: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return digits(completions)

    with tempfile.TemporaryDirectory() as place:
        config = GRPOConfig(
            output_dir=place,
            per_device_train_batch_size=asked.trl_batch,
            gradient_accumulation_steps=asked.prompts * asked.samples // asked.trl_batch,
            num_generations=asked.samples,
            max_completion_length=asked.tokens,
            max_steps=asked.updates,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            loss_type="grpo",
            beta=0.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        rows = Dataset.from_list([{"prompt": prompt} for prompt in _prompts(asked)])
        tokenizer = AutoTokenizer.from_pretrained(asked.model)
        trainer = GRPOTrainer(model, reward, config, train_dataset=rows, processing_class=tokenizer)
        trainer._generate = _timed(trainer._generate, spent)
        clock = TrainerCallback()
        clock.on_step_end = lambda *_, **__: ends.append(time.perf_counter())
        trainer.add_callback(clock)
        trainer.train()
    whole = (ends[-1] - ends[0]) / (len(ends) - 1)
    writing = statistics.mean(spent[1:])
    return _numbers(writing, whole - writing, whole, statistics.mean(tokens[1:]))


def _timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **more: Any) -> Any:
        begin = time.perf_counter()
        found = function(*args, **more)
        seconds.append(time.perf_counter() - begin)
        return found

    return timed


def _numbers(writing: float, updating: float, whole: float, tokens: float) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {"writing": writing, "updating": updating, "whole": whole, "tokens": tokens, "peak_gb": peak}
    return {name: round(value, 3) for name, value in found.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="prompts, such as train.jsonl of bench.arithmetic")
    sizes = (("prompts", 8), ("samples", 8), ("tokens", 32), ("updates", 3), ("threads", 2), ("repetitions", 1))
    for name, value in (*sizes, ("tokens-per-batch", 4096), ("trl-batch", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--system", choices=("trl", "tokenq"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
