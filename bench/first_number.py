"""The first number: what opening a model and reading one text costs, beside transformers that does the same.

`python -m bench.first_number --model FOLDER [--rounds 3]`: every case is a process of its own; CPU is user and system
time of the whole process, imports included. The first run of tokenq finds what it keeps (identity, proof), the second
uses it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PROMPT, RESPONSE = "What is the capital of France?", " Paris."

PLAIN = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
folder, prompt, response, what = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
if what == "search":
    ids = tokenizer(prompt, return_tensors="pt")
    print(tokenizer.decode(model.generate(**ids, max_new_tokens=2, do_sample=False)[0]))
else:
    with torch.no_grad():
        ids = tokenizer(prompt + response, return_tensors="pt")
        for _ in range(2):  # the policy and its reference
            print(model(**ids).logits.log_softmax(-1)[0, -1].max().item())
"""

LOAD = """
import sys, tokenq
folder, prompt, response, _ = sys.argv[1:]
print(tokenq.load(folder, folder).score(prompt, response).trace.totals.logp)
"""


def main() -> None:
    """Run every case in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a causal LM with its tokenizer")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    words = [asked.model, PROMPT, RESPONSE]
    score = ["score", "--policy", asked.model, "--reference", asked.model, "--prompt", PROMPT, "--response", RESPONSE]
    search = ["search", "--policy", asked.model, "--prompt", PROMPT, "--max-new-tokens", "2"]
    ours = {
        "tokenq score": (["-m", "tokenq", *score], "score"),
        "tokenq.load in Python": (["-c", LOAD, *words, "score"], "score"),
        "tokenq search": (["-m", "tokenq", *search], "search"),
    }
    plain = {what: ["-c", PLAIN, *words, what] for what in ("score", "search")}
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(asked.rounds):
        for what, command in plain.items():
            times.setdefault(f"transformers, {what}", []).append(_timed(command, {}))
        for name, (command, _) in ours.items():
            with tempfile.TemporaryDirectory() as cache:
                for run in ("first run", "second run"):
                    times.setdefault(f"{name}, {run}", []).append(_timed(command, {"TOKENQ_CACHE": cache}))
    whats = {name: what for name, (_, what) in ours.items()}
    print("| case | wall s | CPU s | × transformers |\n| --- | --: | --: | --: |")
    for case, found in times.items():
        what = whats.get(case.rpartition(", ")[0], case.rpartition(", ")[2])
        ratio = median(ours[1] / base[1] for ours, base in zip(found, times[f"transformers, {what}"], strict=True))
        print(f"| {case} | {median(t for t, _ in found):.1f} | {median(t for _, t in found):.1f} | {ratio:.2f} |")


def _timed(command: list[str], more: dict[str, str]) -> tuple[float, float]:
    """Return (wall, CPU) seconds of a process of Python."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **more}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, *command], env=environment, cwd=root, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
