"""Episodes in lockstep against one after the other: tokens per second, and the environment's share of the time.

    python -m bench.playing [--environment gridworld] [--episodes 64] [--side-by-side 32] [--max-turns 10]

The policy has a million weights, drawn and not trained, and never ends an action before its most tokens, so that every
episode takes all its turns unless the environment ends it. Both ways play the same episodes, in turns; the best of the
repetitions counts. A game that has to be compiled is, before the clock starts. The tokenizer's words are those of the
environment.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

SIZE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}


def main() -> None:
    """Play both ways, and print what they took."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_policy(Path(folder), words_of(asked.environment))
        found = {size: played(folder, asked, size) for size in (1, asked.side_by_side)}
    slow, fast = found.values()
    for size, row in found.items():
        print(json.dumps({"side by side": size, **row}))
    ratios = {"times as fast": fast["tokens/s"] / slow["tokens/s"]}
    ratios |= {"by the processor's clock": slow["processor seconds"] / fast["processor seconds"]}
    rounded = {name: round(value, 2) for name, value in ratios.items()}
    print(json.dumps({"environment": asked.environment, "weights": weights, **rounded}))


def played(folder: str, asked: argparse.Namespace, size: int) -> dict[str, float]:
    """Return what the best of some plays took, so many episodes side by side."""
    from tokenq.jobs.playing.play import table_of
    from tokenq.listener import SILENCE, silent
    from tokenq.rollout.episodes.config import PlayConfig
    from tokenq.rollout.episodes.game import Spent
    from tokenq.rollout.episodes.player import batches

    config = PlayConfig(
        policy=folder,
        environment=asked.environment,
        episodes=asked.episodes,
        max_turns=asked.max_turns,
        max_new_tokens=asked.tokens,
        device="cpu",
        batch_size=size,
    )
    table = table_of(config, SILENCE)
    table.episodes(table.starts[:size], silent)  # games are compiled, memory is there
    best: dict[str, float] = {}
    for _ in range(asked.repetitions):
        once, begin = replace(table, spent=Spent()), time.process_time()
        for group in batches(table.starts, size):
            once.episodes(group, silent)
        spent, processor = once.spent, time.process_time() - begin
        row = {"tokens": spent.written, "tokens of prompts": spent.read, "seconds": round(spent.seconds, 2)}
        row |= {"tokens/s": round(spent.written / spent.seconds, 1), "processor seconds": round(processor, 2)}
        row |= {"environment, share": round(spent.acting / spent.seconds, 4)}
        best = row if not best or row["tokens/s"] > best["tokens/s"] else best
    return best


def words_of(environment: str) -> tuple[str, ...]:
    """Return what an environment says at the beginning of some episodes, and to an action that is none."""
    from tokenq.envs.table import find_environment

    found = []
    for seed in range(4):
        made = find_environment(environment).make({})()
        found += [str(made.reset(seed)), str(made.step("?").observation)]
        made.close()
    return tuple(found)


def write_policy(folder: Path, words: tuple[str, ...]) -> int:
    """Write the policy with a tokenizer of some words, and return how many weights it has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import tiny_tokenizer

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, max_position_embeddings=4096, **SIZE))
    tokenizer = tiny_tokenizer("words", texts=words)
    with torch.no_grad():  # EOS is never likely: every action has as many tokens
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
        model.model.norm.weight.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="gridworld")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--side-by-side", type=int, default=32)
    parser.add_argument("--max-turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
