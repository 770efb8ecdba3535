"""A million rows: memory and start-up of a training, as the data grow, and the second time.

    python -m bench.data_scale --rows 10000 1000000

Rows are short demonstrations, the model has 0.1M weights, a run takes two steps. Each setting runs in a process of its
own: first with an empty cache, then again; then the same file as a stream. Peak memory is the most that was resident of
the training process, pages of mapped files counted; start-up is the time until the first step begins.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.train_speed import processor


class Cost(NamedTuple):
    """The cost of one run.

    Attributes:
        start_up: seconds from the start of the process to its first step.
        seconds: seconds in all.
        memory: bytes that were resident at most.
    """

    start_up: float
    seconds: float
    memory: int


def write_model(folder: Path) -> None:
    """Write a Llama of 0.1M weights with a tokenizer of words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tokenq.demo.tokenizer import word_tokenizer

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=512, max_position_embeddings=256, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    inner = word_tokenizer([f"w{number} w{number}" for number in range(240)], ("<pad>", "<bos>", "<eos>", "<unk>"))
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)


def write_rows(path: Path, count: int) -> None:
    """Write short demonstrations, all different."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            asked = " ".join(f"w{(n // 240**k + 7 * k) % 240}" for k in range(4))
            said = " ".join(f"w{(n * (k + 3) + k) % 240}" for k in range(3 + n % 5))
            file.write(json.dumps({"prompt": asked, "completion": f" {said}"}) + "\n")


def train(root: Path, data: Path, name: str, *more: str) -> Cost:
    """Train two steps in a process of its own and return what it cost."""
    output = root / name
    words = ["train", "--model", str(root / "model"), "--data", str(data), "--output", str(output), "--loss", "sft"]
    words += ["--max-steps", "2", "--device", "cpu", "--learning-rate", "1e-3", "--keep-checkpoints", "0", *more]
    begin = time.time()
    environment = os.environ | {"TOKENQ_CACHE": str(root / "cache" / data.stem)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenq", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    start_up = 0.0
    while process.stdout is not None and (line := process.stdout.readline()):
        print(f"    {line.decode().rstrip()}", file=sys.stderr)
        if line.startswith(b"training:"):
            start_up = time.time() - begin
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed")
    return Cost(start_up, time.time() - begin, used.ru_maxrss * 1024)


def main(words: Sequence[str] | None = None) -> None:
    """Run every setting and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--settings", nargs="+", default=["first", "second", "stream"])
    asked = parser.parse_args(words)
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}, Python {platform.python_version()}\n")
    print("| rows | run | start-up s | all s | peak MB |\n|--:|---|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_model(root / "model")
        for count in asked.rows:
            data = root / f"{count}.jsonl"
            write_rows(data, count)
            for name in asked.settings:
                more = ["--streaming"] if name == "stream" else []
                cost = train(root, data, f"{count}-{name}", *more)
                cells = f"{cost.start_up:.1f} | {cost.seconds:.1f} | {cost.memory / 1e6:.0f}"
                print(f"| {count:,} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
