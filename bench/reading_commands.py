"""What reading costs beside learning: whole commands on the same pairs, each a process of its own.

    python -m bench.reading_commands --output /tmp/reading

A seeded tiny Llama with a vocabulary of words reads 1,000 seeded pairs. Every command runs on all pairs and on the
first few of them; the second is its start-up, and what it takes longer is what the pairs cost. `train` is one epoch of
DPO: a pass of the reference, and of each step a forward and a backward pass.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

WORDS, FEW = 4990, 4
"""Words of the vocabulary; pairs by which start-up is measured."""

COMMANDS = {
    "train, one epoch": "train --model {m}/reference --data {d} --output {o}/run --epochs 1 --batch-size 16 "
    "--learning-rate 1e-4 --reference-store {o}/store",
    "eval preference": "eval preference {models} --data {d} --output {o}/e.json --overwrite",
    "score to parquet": "score {models} --data {d} --output {o}/t.parquet --overwrite",
    "score to jsonl, with a page": "score {models} --data {d} --output {o}/t.jsonl --html {o}/t.html --overwrite",
}
"""Commands by what they are called; train first: the others are measured by it."""


class Spent(NamedTuple):
    """What a process has cost.

    Attributes:
        seconds: on the clock.
        processor: seconds of the processor, which other work on the machine moves less.
        megabytes: its largest memory, 10⁶ bytes.
    """

    seconds: float
    processor: float
    megabytes: float


def write_inputs(folder: Path, pairs: int, tokens: int) -> None:
    """Write two models that differ a little, and pairs of which each response has so many tokens, give or take half."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import tiny_tokenizer

    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    known = sorted({"".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(WORDS)})
    tokenizer = tiny_tokenizer("words", texts=[" " + " ".join(known) + " ."])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "reference")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    model.save_pretrained(folder / "policy")
    for name in ("reference", "policy"):
        tokenizer.save_pretrained(folder / name)

    def text(size: int) -> str:
        said = [f" {word}" for word in rng.choice(known, size)]
        said[11::12] = [" ."] * len(said[11::12])
        return "".join(said)

    def response() -> str:
        return text(int(rng.integers(tokens // 2, tokens * 3 // 2)))

    rows = [{"prompt": text(20), "chosen": response(), "rejected": response()} for _ in range(pairs)]
    for name, part in (("pairs", rows), ("few", rows[:FEW])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def spent(words: list[str]) -> Spent:
    """Run a command of tokenq in a process of its own, and return what it has cost."""
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "tokenq", *words], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tokenq {' '.join(words)} ended with {process.returncode}")
    return Spent(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of inputs and outputs")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=195, help="mean tokens of a response")
    parser.add_argument("--only", nargs="*", default=[], help="words that the name of a command begins with")
    asked = parser.parse_args()
    shutil.rmtree(asked.output, ignore_errors=True)
    asked.output.mkdir(parents=True)
    write_inputs(asked.output, asked.pairs, asked.tokens)
    models = f"--policy {asked.output}/policy --reference {asked.output}/reference"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}")
    print(f"{asked.pairs} pairs, {asked.tokens} tokens a response\n")
    print("| command | whole, s | start-up, s | the pairs, s | × train | processor, s | × train | peak, MB |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    learning: tuple[float, float] | None = None
    for name, command in COMMANDS.items():
        if asked.only and not any(name.startswith(word) for word in asked.only):
            continue
        few, all_pairs = (
            spent(
                command.format(
                    m=asked.output, o=asked.output / part, d=asked.output / f"{part}.jsonl", models=models
                ).split()
            )
            for part in ("few", "pairs")
        )
        took = all_pairs.seconds - few.seconds, all_pairs.processor - few.processor
        learning = learning or took
        clock, processor = (own / theirs for own, theirs in zip(took, learning, strict=True))
        print(
            f"| {name} | {all_pairs.seconds:.1f} | {few.seconds:.1f} | {took[0]:.1f} | {clock:.2f} | {took[1]:.1f} | "
            f"{processor:.2f} | {all_pairs.megabytes:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
