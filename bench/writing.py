"""Rounds are written: tokenq's writer, and transformers' `generate` on the same prompts, in turns in one process.

    python -m bench.writing MODEL --prompts 4 --prompt-tokens 300 --samples 8 --tokens 32 [--batch 50]

No token ends a response, so that both write the same number of tokens. `generate` gets prompts of one length, in
batches of as many prompts; its continuous batching, where asked for, gets everything at once. Every system writes two
tokens behind every prompt before the clock starts; the best of the repetitions counts.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Ids = list[list[int]]


def main() -> None:
    """Time every system, and print tokens per second and the ratio to `generate`."""
    asked = _arguments()
    from tokenq.models.load import ModelSpec, load_model

    torch.set_num_threads(asked.threads)
    # A model of its own for each: the package's attention stays with the model that it was put into.
    own, model = (load_model(ModelSpec(asked.model, "float32", "cpu")) for _ in range(2))
    dice, vocabulary = np.random.default_rng(0), model.config.get_text_config().vocab_size
    prompts: Ids = dice.integers(5, vocabulary, (asked.prompts, asked.prompt_tokens)).tolist()
    batches = [prompts[start : start + asked.batch] for start in range(0, len(prompts), asked.batch)]
    systems: dict[str, Callable[[Ids, int], int]] = {
        "tokenq": _tokenq(own, asked),
        "generate": _generate(model, asked),
    }
    if asked.continuous:
        systems["continuous batching"] = _continuous(model, asked)
    best = dict.fromkeys(systems, float("inf"))
    for name, write in systems.items():
        write(batches[0], 2)
        for _ in range(asked.repetitions):
            begin = time.perf_counter()
            written = sum(write(batch, asked.tokens) for batch in batches)
            best[name] = min(best[name], time.perf_counter() - begin)
        assert written == asked.prompts * asked.samples * asked.tokens, (name, written)
    for name, seconds in best.items():
        ratio = best["generate"] / seconds
        print(
            json.dumps(
                {
                    "system": name,
                    "seconds": round(seconds, 2),
                    "tokens/s": round(written / seconds, 1),
                    "times generate": round(ratio, 2),
                }
            )
        )


def _tokenq(model: Any, asked: argparse.Namespace) -> Callable[[Ids, int], int]:
    from tokenq.models.forward.proof import fastest_exact
    from tokenq.models.forward.stepper import ModelStepper
    from tokenq.rollout.writer import LocalWriter
    from tokenq.search.branches import Limits
    from tokenq.search.settings import Sampling

    lm = fastest_exact(model)[0]

    def write(prompts: Ids, size: int) -> int:
        writer = LocalWriter(lambda: ModelStepper(lm), Limits((), size))
        found = writer.write(prompts, asked.samples, Sampling(temperature=0.0 if asked.greedy else 1.0), 0)
        return sum(len(one.token_ids) for some in found for one in some)

    return write


def _generate(model: Any, asked: argparse.Namespace) -> Callable[[Ids, int], int]:
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(pad_token_id=0)  # the model's own would fill in its EOS

    def write(prompts: Ids, size: int) -> int:
        ids = torch.tensor(prompts).repeat_interleave(asked.samples, 0) if asked.greedy else torch.tensor(prompts)
        ways: dict[str, Any] = (
            {"do_sample": False}
            if asked.greedy
            else {"do_sample": True, "top_k": 0, "num_return_sequences": asked.samples}
        )
        config = GenerationConfig(pad_token_id=0, max_new_tokens=size, **ways)
        rows = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return int(rows[:, ids.shape[1] :].numel())

    return write


def _continuous(model: Any, asked: argparse.Namespace) -> Callable[[Sequence[list[int]], int], int]:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    blocks = 2 * asked.prompts * asked.samples * (asked.prompt_tokens + asked.tokens) // 32
    cache = ContinuousBatchingConfig(return_logprobs=True, num_blocks=blocks, page_size=32, max_batch_tokens=256)

    def write(prompts: Sequence[list[int]], size: int) -> int:
        many = [list(prompt) for prompt in prompts for _ in range(asked.samples)]
        config = GenerationConfig(
            do_sample=not asked.greedy, top_k=0, max_new_tokens=size, eos_token_id=-1, pad_token_id=0
        )
        found = model.generate_batch(
            many, generation_config=config, continuous_batching_config=cache, progress_bar=False
        )
        return sum(len(one.generated_tokens) for one in found.values())

    return write


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for name, value in (("prompts", 4), ("prompt-tokens", 300), ("samples", 8), ("tokens", 32), ("batch", 50)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--continuous", action="store_true", help="time generate_batch too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
