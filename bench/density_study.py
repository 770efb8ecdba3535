"""Does a reward go by what is said, or by length? `python -m bench.density_study --output runs/density --seeds 0 1 2`.

In the world of posts, labellers judge ordinary pairs of summaries of any length: one by facts, one by length alone, one
by both. DPO learns from each, from one reference. What each policy's implicit reward goes by is then read on chains of
summaries of one length, whose every step states one fact more: there length decides nothing. The seed is of the posts,
summaries, labels, order of training and chains. What is done already is not done again.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.density_worlds import LABELLERS, chains, facts, pairs
from bench.dro_study import shown
from tokenq.demo.gold import count_tokens
from tokenq.demo.learning import World, dpo, learn
from tokenq.demo.settings import DemoSettings
from tokenq.jobs.evaluate import evaluate
from tokenq.stats.bootstrap import Estimate

CHAINS = 100
"""Chains by seed."""

ENTITIES = f"{Path(__file__).with_name('density_worlds.py')}:fact_spans"


def main() -> None:
    """Train everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labellers", nargs="+", default=list(LABELLERS), choices=list(LABELLERS))
    asked = parser.parse_args()
    start = World(asked.output, DemoSettings(0), ())
    if not start.sft.exists():
        learn(start)
    found = {name: [one(asked.output, start.sft, name, seed) for seed in asked.seeds] for name in asked.labellers}
    print_accuracies(found, asked.seeds)
    print_curves(found)
    print_credit(found)


def one(folder: Path, sft: Path, labeller: str, seed: int) -> dict[str, Any]:
    """Train on a labeller's pairs, and return what the run came to on held-out pairs and on chains."""
    world = World(folder, DemoSettings(seed), ())
    own, name = world.settings, f"{labeller}-{seed}"
    reward = LABELLERS[labeller]
    train = world.data(f"{name}-pairs", pairs(own.for_pairs(), seed, reward, own.label_temperature))
    dpo(world, name, sft, train)
    posts = own.held_out()
    by_post = {post.prompt: post for post in posts}
    result: dict[str, Any] = {}
    for judge in (labeller, "facts"):
        rows = pairs(posts, seed, LABELLERS[judge], own.label_temperature)
        held_out = world.data(f"held_out-{judge}-{seed}", rows)
        result[f"by {judge}" if judge == "facts" else "own"] = preferred(world, name, held_out)
        if judge == labeller:
            result["own"] = result.get("own") or result["by facts"]
            result["length"] = statistics.mean(longer(row, lambda _, text: count_tokens(text)) for row in rows)
            result["facts"] = statistics.mean(longer(row, lambda p, text: facts(by_post[p], text)) for row in rows)
    path = world.data(f"chains-{seed}", (chain.row() for chain in chains(CHAINS, seed)))
    output = str(folder / "density" / f"{name}.json")
    run = {"run": str(folder / name), "data": [str(path)], "device": "cpu", "output": output}
    result["density"] = evaluate("density", entities=ENTITIES, same_length=0.0, **run).numbers
    return result


def preferred(world: World, run: str, data: Path) -> Estimate:
    """Return how often the implicit reward prefers the chosen summary of held-out pairs."""
    found = evaluate("preference", run=str(world.folder / run), data=[str(data)], device="cpu")
    table = next(iter(found.tables.values()))
    row = next(row for row in table if "implicit" in str(next(iter(row.values()))))
    return Estimate(row["accuracy"], row["accuracy low"], row["accuracy high"], 0)


def longer(row: Mapping[str, str], number: Any) -> float:
    """Return whether the chosen summary has more of something; a tie is a half."""
    chosen, rejected = (number(row["prompt"], row[side]) for side in ("chosen", "rejected"))
    return 0.5 if chosen == rejected else float(chosen > rejected)


def pooled(values: Sequence[Estimate]) -> str:
    """Return the mean over seeds, and each seed's value with its interval."""
    mean = statistics.mean(one.value for one in values)
    return f"{mean:.3f} ({'; '.join(map(shown, values))})"


def print_accuracies(found: Mapping[str, Sequence[Mapping[str, Any]]], seeds: Sequence[int]) -> None:
    """Print how often each policy is right, on ordinary pairs and on pairs of one length."""
    print(f"mean over seeds {', '.join(map(str, seeds))} (each seed, 95 % over pairs or chains)\n")
    print(
        "| labeller | length right in its pairs | facts right | held out, its own labels | held out, labels by facts |"
    )
    print("|---|--:|--:|--:|--:|")
    for name, runs in found.items():
        own = [statistics.mean(run[key] for run in runs) for key in ("length", "facts")]
        cells = [pooled([run[key] for run in runs]) for key in ("own", "by facts")]
        print(f"| {name} | {own[0]:.3f} | {own[1]:.3f} | {' | '.join(cells)} |")
    for kind, title in (("all", "all pairs of steps"), ("adjacent", "steps that follow each other")):
        print(f"\nOne length, {title}: how often the denser one is preferred\n")
        print("| labeller | implicit reward | reference likelihood | length | pairs |")
        print("|---|--:|--:|--:|--:|")
        for name, runs in found.items():
            own = [run["density"][kind] for run in runs]
            cells = [pooled([one[way] for one in own]) for way in ("implicit reward", "reference likelihood", "length")]
            print(f"| {name} | {' | '.join(cells)} | {sum(one['pairs'] for one in own)} |")


def print_curves(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print the implicit reward by step, less the mean of its chain."""
    print("\n| labeller | seed | step 1 | 2 | 3 | 4 | 5 | slope a unit of density | chains that peak at step 1 … 5 |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, runs in found.items():
        for number, run in enumerate(runs):
            dose = run["density"]["dose"]
            peaks = " ".join(map(str, dose["peaks"]))
            print(
                f"| {name} | {number} | {' | '.join(map(shown, dose['reward']))} | {shown(dose['slope'])} | {peaks} |"
            )


def print_credit(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print the AUROC of the tokens of added facts."""
    ways = list(next(iter(found.values()))[0]["density"]["credit"])
    print("\n| labeller | " + " | ".join(ways) + " |")
    print("|---|" + "--:|" * len(ways))
    for name, runs in found.items():
        cells = [pooled([run["density"]["credit"][way] for run in runs]) for way in ways]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
