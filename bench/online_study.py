"""Rounds in the world of posts: `python -m bench.online_study --output runs/online --seeds 0 1 2`.

A policy that learnt from demonstrations goes on with the same number of judgements in every way: offline (both
summaries of all posts by the policy as it begins), in rounds with the reference fixed or moving, and by SELM, VPO and
XPO. A judgement is a Bradley-Terry draw from the true reward between two summaries of a post. DICE begins with the
offline policy and asks for no further judgement; beside it stands its null, the offline policy sharpened once
(π · π/π_ref token by token, at decoding). What all of them write of posts that nothing was trained on is judged by the
true reward. What is done already is not done again.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.dro_study import shown
from bench.loss_jobs import SAMPLES, decoding
from tokenq.demo.gold import GOLD
from tokenq.demo.learning import NEW_TOKENS, World, learn
from tokenq.demo.settings import DemoSettings
from tokenq.demo.steps import answers, first_samples
from tokenq.demo.tldr import Post
from tokenq.files import JsonLines
from tokenq.jobs.rollout.clock import PHASES
from tokenq.jobs.rollout.online import online
from tokenq.records.results import read_results
from tokenq.rundir import RunDir
from tokenq.stats.bootstrap import difference_interval, mean_interval
from tokenq.terminal.progress import Progress

ROUNDS = 4

IN_ROUNDS: dict[str, dict[str, Any]] = {
    "offline DPO": {"method": "dpo", "rounds": 1},
    "iterative DPO": {"method": "dpo"},
    "iterative DPO, moving reference": {"method": "dpo", "reference_moves": "round"},
    "SELM, α 0": {"method": "selm", "loss_options": {"alpha": "0"}},
    "SELM, α 1e-4": {"method": "selm", "loss_options": {"alpha": "1e-4"}},
    "SELM, α 1e-2": {"method": "selm", "loss_options": {"alpha": "1e-2"}},
    "VPO, α 0": {"method": "vpo", "loss_options": {"alpha": "0"}},
    "VPO, α 1e-4": {"method": "vpo", "loss_options": {"alpha": "1e-4"}},
    "VPO, α 1e-2": {"method": "vpo", "loss_options": {"alpha": "1e-2"}},
    "XPO, α 1e-5": {"method": "xpo", "loss_options": {"alpha": "1e-5"}},
    "XPO, α 1e-3": {"method": "xpo", "loss_options": {"alpha": "1e-3"}},
}
"""What is compared at equal judgements. SELM's and VPO's α is times β = 0.1, XPO's stands alone: the smaller of each is
about the published size, the larger a hundred times that. At 0 what is left of a method is what it compares."""

OFFLINE, DICE, NULL = "offline DPO", "DICE, 2 rounds after offline DPO", "offline DPO, sharpened"
BASE = "iterative DPO"


@cache
def _posts() -> dict[str, Post]:
    """Return the posts that are written about, and more of them, by their prompts."""
    return {post.prompt: post for post in replace(DemoSettings(0), pair_posts=8000).for_pairs()}


def gold(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Return the true reward of summaries in units of the labeller's temperature: a judge of `tokenq.online`."""
    unit, posts = DemoSettings(0).label_temperature, _posts()
    return [GOLD(posts[prompt], text) / unit for prompt, text in zip(prompts, responses, strict=True)]


GOLD_RANGE = 40.0
"""True rewards in these units lie between −20 and 20."""


def gold_share(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Return the same as a number between 0 and 1."""
    return [min(1.0, max(0.0, 0.5 + reward / GOLD_RANGE)) for reward in gold(prompts, responses)]


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the rounds")
    asked = parser.parse_args()
    world = World(asked.output, DemoSettings(0), ())
    if not world.sft.exists():
        learn(world)
    posts = world.settings.for_corruption()
    start = {"SFT": [judged(world, "sft", {"policy": str(world.sft)}, posts, 0)]}
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in asked.seeds:
        for name, (settings, cost) in arms(world, seed).items():
            one = judged(world, f"{seed}-{name}", settings, posts, seed) | cost
            found.setdefault(name, []).append(one)
            print(f"<!-- seed {seed}, {name}: sampled {statistics.mean(one['sampled']):.3f} -->", flush=True)
    draw({**start, **found}, world.folder / "online_study.png")
    print(
        "| way | judgements | sampled: true reward | − iterative DPO | by seed | greedy: true reward | − iterative DPO "
        "| KL | length | distinct of 4 | tokens written | tokens learnt | s |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, runs in {**start, **found}.items():
        print(line(name, runs, found[BASE]), flush=True)


def arms(world: World, seed: int) -> dict[str, tuple[dict[str, Any], dict[str, float]]]:
    """Return how every policy of a seed answers, and what its training cost."""
    found = {}
    for name, settings in IN_ROUNDS.items():
        run = trained(world, f"{name}-{seed}", seed, model=str(world.sft), **settings)
        found[name] = {"policy": str(run.policy)}, cost(run)
    offline = RunDir(world.folder / f"{OFFLINE}-{seed}".replace(" ", "-"))
    dice = trained(
        world,
        f"{DICE}-{seed}",
        seed,
        model=str(offline.policy),
        reference=str(world.sft),
        method="dice",
        rounds=2,
        data=[str(offline.round(1) / "pairs.jsonl")],
    )
    found[DICE] = {"policy": str(dice.policy)}, cost(dice)
    sharpened = {"policy": str(offline.policy), "proxy": [str(offline.policy), str(world.sft)]}
    found[NULL] = sharpened, cost(offline)
    return found


def trained(world: World, name: str, seed: int, **settings: Any) -> RunDir:
    """Return a run in rounds: the recipe of the demonstration's DPO, with the posts of a round in turn."""
    own, run = world.settings, RunDir(world.folder / name.replace(" ", "-").replace(",", ""))
    posts = own.for_pairs()
    prompts = world.data("posts", ({"id": str(i), "prompt": post.prompt} for i, post in enumerate(posts)))
    rounds = settings.pop("rounds", ROUNDS)
    asked: dict[str, Any] = {
        "rounds": rounds,
        "prompts_per_round": len(posts) // rounds,
        "max_new_tokens": NEW_TOKENS,
        "beta": own.dpo_beta,
        "batch_size": own.dpo_batch_size,
        "epochs": own.dpo_epochs,
        "learning_rate": own.dpo_learning_rate,
        "warmup_steps": own.dpo_warmup_steps,
        "schedule": "cosine",
        "seed": seed,
        "device": "cpu",
        "dtype": "float32",
    }
    if settings["method"] != "dice":
        asked |= {"samples": 2, "pairs": "bradley_terry", "judge": f"{__file__}:gold"}
    if not run.policy.exists():
        with Progress(100) as progress:
            online(
                prompts=[str(prompts)], output=run.path, listener=progress, resume=run.path.exists(), **asked | settings
            )
    return run


def cost(run: RunDir) -> dict[str, float]:
    """Return what a run cost: judgements, tokens written and learnt, seconds."""
    lines = list(JsonLines(run.metrics).read())
    rounds = [one for one in lines if "round/reward" in one]
    labelled = sum(one["round/pairs"] for one in rounds) if "dice" not in run.path.name.lower() else 0
    return {
        "judgements": labelled,
        "written": sum(one["round/written_tokens"] for one in rounds),
        "learnt": sum(one["round/learnt_tokens"] for one in rounds),
        "seconds": sum(one.get(f"seconds/{name}", 0.0) for one in lines for name in PHASES),
    }


def judged(world: World, name: str, settings: Mapping[str, Any], posts: Sequence[Post], seed: int) -> dict[str, Any]:
    """Return the true rewards of a policy's greedy and sampled summaries, with KL, length and diversity of samples."""
    prompts = world.data("judged_posts", ({"id": str(i), "prompt": post.prompt} for i, post in enumerate(posts)))
    found: dict[str, Any] = {}
    for kind, method in (("greedy", {"method": "greedy"}), ("sampled", {"method": "sample", "n": SAMPLES})):
        output = world.folder / "judged" / f"{name}-{kind}.jsonl".replace(" ", "-").replace(",", "")
        asked = {**settings, **method, **decoding(seed)}
        if not output.exists():
            answers(output, reference=str(world.sft), prompts=[str(prompts)], **asked)
        results = list(read_results(output))
        samples = first_samples(results, SAMPLES)
        found[kind] = [GOLD(posts[int(result.id)], one.text) for result, one in samples]
        found[f"{kind} posts"] = [result.id for result, _ in samples]
    texts = [(result.id, one.text) for result, one in samples]
    return found | {
        "kl": statistics.mean(sum(one.logps) - sum(one.ref_logps or one.logps) for _, one in samples),
        "length": statistics.mean(len(one.token_ids) for _, one in samples),
        "distinct": SAMPLES * len(set(texts)) / len(texts),
    }


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Write a figure: sampled true reward against KL, a point a seed; DICE, far outside, stands in the table alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    shown_ways = [name for name in found if name != DICE]
    for place, name in enumerate(shown_ways):
        points = [(run["kl"], statistics.mean(run["sampled"])) for run in found[name]]
        marker = "osD^vPX*"[place % 8]
        axes.scatter(*zip(*points, strict=True), label=name, marker=marker, color=f"C{place % 10}", s=34)
    axes.set_xlabel("KL(π‖SFT) of samples, nats a summary")
    axes.set_ylabel("true reward of samples")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)


def line(name: str, runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> str:
    """Return one line of the table, all seeds together: posts are the units of the intervals."""
    cells = [name, f"{runs[0].get('judgements', 0):.0f}"]
    for kind in ("sampled", "greedy"):
        values = [value for run in runs for value in run[kind]]
        posts = [post for run in runs for post in run[f"{kind} posts"]]
        cells.append(shown(mean_interval(values, posts)))
        others = [value for run in base for value in run[kind]]
        cells.append(shown(difference_interval(values, others, posts)) if len(values) == len(others) else "")
        if kind == "sampled":
            cells.append(" ".join(f"{statistics.mean(run[kind]):.2f}" for run in runs))
    for number in ("kl", "length", "distinct"):
        cells.append(f"{statistics.mean(run[number] for run in runs):.2f}")
    for number in ("written", "learnt", "seconds"):
        cells.append(f"{statistics.mean(run.get(number, 0) for run in runs):,.0f}")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
