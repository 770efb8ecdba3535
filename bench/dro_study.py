"""Rewards of single responses in the world of posts: `python -m bench.dro_study --output runs/dro`.

A policy that learnt from demonstrations gets one summary a post with its true reward and noise on it: a sample of its
own, or the work of a sloppier writer than any it has learnt from. DRO-V, KTO (whose labels are those rewards, above or
below their median) and SFT on what is above the mean train on the same rows for as many steps at the same rate.
Temperatures are chosen on posts that neither training nor test sees. What they write of the test posts is judged by the
true reward. What is done already is not done again.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.loss_jobs import SAMPLES, decoding, recipe
from tokenq.demo.gold import GOLD
from tokenq.demo.learning import World, learn
from tokenq.demo.settings import DemoSettings
from tokenq.demo.steps import answers, first_samples, trained
from tokenq.demo.tldr import Noise, Post, dice, write_summary
from tokenq.files import JsonLines
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import Estimate, difference_interval, mean_interval

SLOPPY = Noise(omit=0.25, wrong=0.5, repeat=0.3, shuffle=0.5, remark=0.5)
"""A writer whose every second fact is wrong."""

REWARD_NOISE = 0.5
"""Standard deviation of what is added to the true reward of a training row."""

BETAS = (0.1, 0.3, 1.0)
"""Temperatures that are tried on validation posts."""

METHODS: dict[str, dict[str, Any]] = {
    "DRO-V, a value before every token": {"loss": "dro", "loss_options": {"values": "tokens"}},
    "DRO-V, a value per prompt": {"loss": "dro", "loss_options": {"values": "prompt"}},
    "KTO": {"loss": "kto"},
    "SFT above the mean": {"loss": "sft"},
}
"""What is compared; those with a temperature try all of them."""


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--seed", type=int, default=0, help="of the demonstration's world")
    asked = parser.parse_args()
    world = World(asked.output, DemoSettings(asked.seed), ())
    if not world.sft.exists():
        learn(world)
    own = world.settings
    posts = {"validation": own.held_out()[: own.test_posts], "test": own.for_test()}
    start = {part: judged(world, "sft", world.sft, part, posts[part]) for part in posts}
    print("| data | policy | β | greedy: true reward | − SFT | sampled: true reward | − SFT | KL | length | s |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    print(line("", "SFT", "", start["test"], start["test"], 0.0))
    for source, rows in data(world):
        for method, settings in METHODS.items():
            runs = [
                run(world, source, method, rows, settings, beta)
                for beta in (BETAS if settings["loss"] in ("dro", "kto") else (None,))
            ]
            scored = [judged(world, name, policy, "validation", posts["validation"]) for name, policy, _ in runs]
            best = max(range(len(runs)), key=lambda i: statistics.mean(scored[i]["sampled"]))
            name, policy, seconds = runs[best]
            found = judged(world, name, policy, "test", posts["test"])
            print(line(source, method, name.rpartition("-")[2], found, start["test"], seconds), flush=True)


def data(world: World) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield a name and rows of prompt, completion, reward and label, one a post."""
    posts = world.settings.for_pairs()
    prompts = world.data("dro_posts", ({"id": str(i), "prompt": post.prompt} for i, post in enumerate(posts)))
    drawn = answers(
        world.folder / "samples.jsonl",
        policy=str(world.sft),
        prompts=[str(prompts)],
        method="sample",
        n=1,
        **decoding(world.settings.seed),
    )
    samples = [result.candidates[0].text for result in drawn]
    written = [write_summary(post, SLOPPY, seed=world.settings.seed + 1) for post in posts]
    for source, texts in (("own samples", samples), ("a sloppy writer", written)):
        draw = dice("reward noise", world.settings.seed, source)
        kept = [(post, text) for post, text in zip(posts, texts, strict=True) if text.strip()]
        rewards = [GOLD(post, text) + draw.gauss(0.0, REWARD_NOISE) for post, text in kept]
        print(f"<!-- {source}: true reward {statistics.mean(GOLD(*one) for one in kept):.3f}, {len(kept)} rows -->")
        yield (
            source,
            [
                {
                    "prompt": post.prompt,
                    "completion": text,
                    "reward": reward,
                    "label": reward > statistics.median(rewards),
                }
                for (post, text), reward in zip(kept, rewards, strict=True)
            ],
        )


def run(
    world: World,
    source: str,
    method: str,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    beta: float | None,
) -> tuple[str, Path, float]:
    """Train, and return the run's name, its policy and the seconds that it took."""
    own = world.settings
    mean = statistics.mean(row["reward"] for row in rows)
    kept = [row for row in rows if settings["loss"] != "sft" or row["reward"] > mean]
    name = "-".join(f"{source} {method} {beta or ''}".replace(",", "").split())
    done = RunDir(world.folder / name)
    if done.policy.exists():
        return name, done.policy, sum(step.get("seconds", 0.0) for step in JsonLines(done.metrics).read())
    policy = trained(
        world.folder / name,
        model=str(world.sft),
        data=(str(world.data(name, kept)),),
        beta=beta,
        max_steps=round(own.dpo_epochs * len(rows) / own.dpo_batch_size),
        learning_rate=own.dpo_learning_rate,
        **recipe(own, world.folder / "reference"),
        **settings,
    )
    return name, policy, sum(step.get("seconds", 0.0) for step in JsonLines(done.metrics).read())


def judged(world: World, name: str, policy: Path, part: str, posts: Sequence[Post]) -> dict[str, Any]:
    """Return the true rewards of a policy's greedy and sampled summaries, and the samples' KL and length."""
    prompts = world.data(part, ({"id": str(i), "prompt": post.prompt} for i, post in enumerate(posts)))
    found: dict[str, Any] = {}
    for kind, method in (("greedy", {"method": "greedy"}), ("sampled", {"method": "sample", "n": SAMPLES})):
        results = answers(
            world.folder / "judged" / f"{name}-{part}-{kind}.jsonl",
            policy=str(policy),
            reference=str(world.sft),
            prompts=[str(prompts)],
            **method,
            **decoding(world.settings.seed),
        )
        samples = first_samples(results, SAMPLES)
        found[kind] = [GOLD(posts[int(result.id)], one.text) for result, one in samples]
        found[f"{kind} posts"] = [result.id for result, _ in samples]
    ratios = [sum(one.logps) - sum(one.ref_logps or one.logps) for _, one in samples]
    return found | {"kl": statistics.mean(ratios), "length": statistics.mean(len(one.token_ids) for _, one in samples)}


def line(source: str, method: str, beta: str, found: Mapping[str, Any], base: Mapping[str, Any], seconds: float) -> str:
    """Return one line of the table."""
    cells = [source, method, beta if beta.replace(".", "").isdigit() else ""]
    for kind in ("greedy", "sampled"):
        posts = found[f"{kind} posts"]
        cells.append(shown(mean_interval(found[kind], posts)))
        cells.append(shown(difference_interval(found[kind], base[kind], posts)) if method != "SFT" else "")
    return "| " + " | ".join([*cells, f"{found['kl']:.2f}", f"{found['length']:.1f}", f"{seconds:.0f}"]) + " |"


def shown(estimate: Estimate) -> str:
    """Return an estimate with its interval."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
