"""Reward models in the world of posts, each trained from the same SFT policy: `python -m bench.reward_models --help`.

Pairs are two summaries by careless writers, labelled by Bradley-Terry on the true reward; margins are its differences,
ratings its parts. Held-out pairs are labelled by the true reward itself, so that 1 can be reached. The table has the
share of them that each model orders rightly, with that of length beside it.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenq
from tokenq.demo.gold import GOLD, judge
from tokenq.demo.settings import DemoSettings, label_pairs
from tokenq.demo.tldr import CARELESS, Post, write_summary
from tokenq.stats.bootstrap import Estimate

WEIGHTS = {"correct": "1", "wrong": "-1", "repeated": "-0.5", "tokens": "-0.5"}
"""The true reward as a sum of its parts; `tokens` counts tens of them."""

RUNS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    # name: (data, settings of the training, weights of its outputs)
    "bradley_terry": ("pairs", {"loss": "bradley_terry"}, {}),
    "margin_bradley_terry": ("pairs", {"loss": "margin_bradley_terry", "loss_options": {"scale": "1"}}, {}),
    "scaled_bradley_terry": ("pairs", {"loss": "scaled_bradley_terry"}, {}),
    "regression": ("rated", {"loss": "regression"}, WEIGHTS),
}


def main() -> None:
    """Train, evaluate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="policy to start from: RUN/sft3/policy of tokenq demo --quick")
    parser.add_argument("--output", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--pairs", type=int, default=6000, help="posts with a pair to train on")
    parser.add_argument("--held-out", type=int, default=300, help="posts with a pair to judge by")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0")
    asked = parser.parse_args()
    settings = replace(DemoSettings.quick(0), pair_posts=asked.pairs, held_out_posts=asked.held_out)
    write_data(asked.output, settings)
    rows = [
        (name, seed, trained(asked.model, asked.output, name, seed)) for seed in range(asked.seeds) for name in RUNS
    ]
    print("| loss | seed | reward model | length | ties |")
    print("|---|--:|--:|--:|--:|")
    for name, seed, rewards in rows:
        model, length = (rewards[which]["rewardbench"] for which in ("reward_model", "length"))
        print(f"| {name} | {seed} | {shown(model.accuracy)} | {shown(length.accuracy)} | {model.ties} |")


def write_data(folder: Path, settings: DemoSettings) -> None:
    """Write pairs with margins, ratings of all of their responses, and held-out pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = with_margins(settings.for_pairs(), settings.seed, settings.label_temperature)
    posts = {post.prompt: post for post in settings.for_pairs()}
    write(folder / "pairs.jsonl", pairs)
    write(folder / "rated.jsonl", (rated(posts[row["prompt"]], row[side]) for row in pairs for side in SIDES))
    write(folder / "held_out.jsonl", with_margins(settings.held_out(), settings.seed + 1, 0.0))


SIDES = ("chosen", "rejected")


def with_margins(posts: Sequence[Post], seed: int, temperature: float) -> list[dict[str, Any]]:
    """Return labelled pairs of summaries by careless writers, with how far apart they are."""
    texts = [[write_summary(post, CARELESS, seed=writer) for writer in range(4)] for post in posts]
    by_prompt = {post.prompt: post for post in posts}
    rows = label_pairs(posts, texts, seed=seed, temperature=temperature)
    return [row | {"margin": abs(gap(by_prompt[row["prompt"]], row))} for row in rows]


def gap(post: Post, row: Mapping[str, str]) -> float:
    """Return the true reward of the chosen less that of the rejected summary."""
    return GOLD(post, row["chosen"]) - GOLD(post, row["rejected"])


def rated(post: Post, summary: str) -> dict[str, Any]:
    """Return a summary with the parts of its true reward as ratings."""
    verdict = judge(post, summary)
    counts = {"correct": len(verdict.correct), "wrong": len(verdict.wrong), "repeated": len(verdict.repeated)}
    return {"prompt": post.prompt, "response": summary, "ratings": counts | {"tokens": verdict.n_tokens / 10}}


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def trained(model: str, folder: Path, name: str, seed: int) -> Mapping[str, Any]:
    """Train one reward model and return how often each reward orders held-out pairs rightly."""
    data, options, weights = RUNS[name]
    run = tokenq.train(
        model,
        folder / f"{data}.jsonl",
        folder / f"{name}-{seed}",
        seed=seed,
        batch_size=32,
        learning_rate=3e-3,
        epochs=3,
        schedule="cosine",
        warmup_ratio=0.05,
        keep_checkpoints=0,
        device="cpu",
        **options,
    )
    found = tokenq.evaluate(
        "preference",
        reward_model=run.reward_model,
        reward_weights=weights,
        data=folder / "held_out.jsonl",
        device="cpu",
        output=folder / f"{name}-{seed}.json",
    )
    rewards: Mapping[str, Any] = found.numbers["rewards"]
    return rewards


def shown(estimate: Estimate) -> str:
    """Return a share with its interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
