"""Which pairs to keep, by how many labels are wrong: `python -m bench.selection_study --output runs/selection`.

A policy of the small world of posts writes two summaries a post, the true reward labels them by Bradley-Terry, and a
known share of the labels is then turned round. Rules of `tokenq select` keep a part of these pairs; DPO trains on what
each keeps, for equally many steps, and the true reward judges what is written of posts that nothing was trained on.
Margins are those of a run on all pairs, or of folds that are trained as it was, at one β. The β that a rule's pairs are
learnt with is chosen on the first seed with a fifth of the labels turned, by validation posts. What is done already is
not done again.
"""

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.dro_study import shown
from bench.loss_jobs import SAMPLES, decoding, recipe
from tokenq.demo.gold import GOLD
from tokenq.demo.learning import World, learn
from tokenq.demo.settings import DemoSettings, label_pairs
from tokenq.demo.steps import answers, first_samples, trained
from tokenq.demo.tldr import Post
from tokenq.files import JsonLines, read_json, write_json
from tokenq.jobs.curation.select import select
from tokenq.stats.bootstrap import difference_interval, mean_interval

PAIRS, STEPS, BATCH = 800, 50, 16
"""Pairs of a seed; updates of every training, and pairs of each: once through all, four times through a quarter."""

RATE = 5e-4
"""Peak learning rate: at the demonstration's three times as much, the largest margins of clean labels end in babble."""

FLIPS = (0.0, 0.2, 0.4)
BETAS = (0.1, 0.3)
MEASURED, TUNED = 0.1, 0.2
"""β of the policies that margins are read with, and the share of turned labels at which others are chosen."""

ARMS: tuple[tuple[str, float], ...] = (
    ("all", 1.0),
    ("random", 0.25),
    ("large_margin", 0.25),
    ("small_margin", 0.25),
    ("agreement", 0.25),
    ("flip_rate", 0.25),
    ("large_margin", 0.5),
    ("small_margin", 0.5),
)
"""Rules and what they keep."""

SIX = 6
"""The first of them, which are trained for all cells before the others."""


@dataclass(frozen=True)
class Cell:
    """Pairs of a seed with some labels turned round.

    Attributes:
        world: the shared policy and posts.
        seed: of the pairs.
        flips: share of turned labels.
    """

    world: World
    seed: int
    flips: float

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"seed{self.seed}-flips{self.flips:g}"

    @property
    def folder(self) -> Path:
        """Where its runs are."""
        return self.world.folder / self.name

    def pairs(self) -> Path:
        """Write the pairs, and return the file; the column "flipped" is read by nobody but the table."""
        own = self.world.settings
        posts = own.for_pairs()[self.seed * PAIRS : (self.seed + 1) * PAIRS]
        prompts = self.world.data(f"posts{self.seed}", ({"prompt": post.prompt} for post in posts))
        drawn = answers(
            self.world.folder / "samples" / f"{self.seed}.jsonl",
            policy=str(self.world.sft),
            prompts=[str(prompts)],
            method="sample",
            n=2,
            **decoding(self.seed),
        )
        texts = [[candidate.text for candidate in result.candidates] for result in drawn]
        rows = label_pairs(posts, texts, GOLD, seed=self.seed, temperature=own.label_temperature)
        turned = set(random.Random(self.seed).sample(range(len(rows)), round(self.flips * len(rows))))
        return self.world.data(f"pairs-{self.name}", (_turned(row, n in turned) for n, row in enumerate(rows)))


def _turned(row: Mapping[str, str], flipped: bool) -> dict[str, Any]:
    first, second = ("rejected", "chosen") if flipped else ("chosen", "rejected")
    return {"prompt": row["prompt"], "chosen": row[first], "rejected": row[second], "flipped": flipped}


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of pairs, labels and trainings")
    parser.add_argument("--table", action="store_true", help="train nothing more: print what is there")
    asked = parser.parse_args()
    own = replace(DemoSettings.quick(0), pair_posts=3 * PAIRS, corrupted_posts=150)
    world = World(asked.output, own, ())
    if not world.sft.exists():
        learn(world)
    cells = [Cell(world, seed, flips) for seed in asked.seeds for flips in FLIPS]
    found: dict[tuple[float, str, float], list[dict[str, Any]]] = {}
    for arms in (ARMS[:SIX], ARMS[SIX:]):
        for cell, (rule, keep) in itertools.product(cells, arms):
            path = world.folder / "results" / f"{cell.name}-{rule}-{keep:g}.json"
            if not asked.table and not path.exists():
                path.parent.mkdir(exist_ok=True)
                write_json(path, judged(cell, rule, keep, strength(Cell(world, asked.seeds[0], TUNED), rule)))
            if path.exists():
                one = read_json(path)
                found.setdefault((cell.flips, rule, keep), []).append(one)
                said = f"{cell.name}, {rule} {keep:g}: {statistics.mean(one['rewards']):.3f}"
                print(f"<!-- {said} -->", flush=True)
    rewards = [one for cell in cells if cell.flips == 0 for one in start(cell)]
    print(f"<!-- before any of this: {statistics.mean(rewards):.3f} -->")
    print("\n".join(table(found)))


def start(cell: Cell) -> list[float]:
    """Return the true rewards of samples of the policy that all begin with."""
    return written(cell, cell.world.sft, "start", cell.world.settings.for_corruption())[0]


def strength(cell: Cell, rule: str) -> float:
    """Return the β whose policy is worth most on validation posts, of those that were tried."""
    path = cell.world.folder / "results" / f"{cell.name}-{rule}-strength.json"
    if not path.exists():
        posts, keep = cell.world.settings.held_out(), dict(reversed(ARMS))[rule]
        tried = {}
        for beta in BETAS:
            rewards, _, _ = written(cell, policy(cell, rule, keep, beta), f"{rule}-{beta:g}-validation", posts)
            tried[beta] = statistics.mean(rewards)
        write_json(path, {f"{beta:g}": reward for beta, reward in tried.items()})
    rewards = read_json(path)
    return float(max(rewards, key=rewards.__getitem__))


def policy(cell: Cell, rule: str, keep: float, beta: float) -> Path:
    """Return the policy that was trained on what a rule keeps."""
    own = cell.world.settings
    return trained(
        cell.folder / f"{rule}-{keep:g}-{beta:g}",
        model=str(cell.world.sft),
        data=(str(kept(cell, rule, keep)),),
        beta=beta,
        max_steps=STEPS,
        learning_rate=RATE,
        **{**recipe(own, cell.world.folder / "reference"), "batch_size": BATCH, "seed": cell.seed},
    )


def kept(cell: Cell, rule: str, keep: float) -> Path:
    """Return the file of the pairs that a rule keeps."""
    data = cell.pairs()
    if rule == "all":
        return data
    path = cell.folder / f"{rule}-{keep:g}.jsonl"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        run = None if rule == "random" else policy(cell, "all", 1.0, MEASURED).parent
        folds = cell.folder / "folds"
        asked = {"rule": rule, "keep": keep, "run": run, "folds_output": folds, "batch_size": BATCH, "seed": cell.seed}
        select(data, path, device="cpu", **asked)
    return path


def judged(cell: Cell, rule: str, keep: float, beta: float) -> dict[str, Any]:
    """Return what an arm came to: true rewards of samples of the test posts, and the wrong labels that it kept."""
    place = policy(cell, rule, keep, beta)
    rewards, posts, kl = written(cell, place, f"{rule}-{keep:g}-test", cell.world.settings.for_corruption())
    path = kept(cell, rule, keep)
    rows = list(JsonLines(path).read())
    wrong, everything = sum(row["flipped"] for row in rows), list(JsonLines(cell.pairs()).read())
    thrown = len(everything) - len(rows)
    record = path.with_name(f"{path.name}.provenance.json")
    return {
        "beta": beta,
        "rewards": rewards,
        "posts": posts,
        "kl": kl,
        "kept": len(rows),
        "kept wrong": wrong / len(rows),
        "thrown wrong": (sum(row["flipped"] for row in everything) - wrong) / thrown if thrown else None,
        "found": read_json(record)["found"] if rule != "all" else {},
    }


def written(cell: Cell, place: Path, name: str, posts: Sequence[Post]) -> tuple[list[float], list[str], float]:
    """Return true rewards of a policy's samples, the post of each, and KL from the SFT policy."""
    prompts = cell.world.data(
        f"judged{len(posts)}", ({"id": str(i), "prompt": post.prompt} for i, post in enumerate(posts))
    )
    results = answers(
        cell.folder / f"{name}.jsonl",
        policy=str(place),
        reference=str(cell.world.sft),
        prompts=[str(prompts)],
        method="sample",
        n=SAMPLES,
        **decoding(cell.seed),
    )
    samples = first_samples(results, SAMPLES)
    rewards = [GOLD(posts[int(result.id)], one.text) for result, one in samples]
    kl = statistics.mean(sum(one.logps) - sum(one.ref_logps or one.logps) for _, one in samples)
    return rewards, [result.id for result, _ in samples], kl


def table(found: Mapping[tuple[float, str, float], Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the lines of the table, all seeds together: posts are the units of the intervals."""
    yield (
        "| labels turned | rule | kept | β | true reward of samples | − best of a quarter | by seed | KL "
        "| turned among kept | among thrown out | flips estimated |"
    )
    yield "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    for flips in sorted({key[0] for key in found}):
        own = {key[1:]: runs for key, runs in found.items() if key[0] == flips}
        quarters = [key for key in own if key[1] == 0.25]
        best = max(quarters, key=lambda key: _mean(own[key])) if quarters else None
        for (rule, keep), runs in own.items():
            values, posts = ([one for run in runs for one in run[name]] for name in ("rewards", "posts"))
            others = [] if best is None else [one for run in own[best] for one in run["rewards"]]
            apart = (rule, keep) != best and len(others) == len(values)
            thrown = [run["thrown wrong"] for run in runs if run["thrown wrong"] is not None]
            rates = [
                f"{run['found']['flip rate']:.2f} {run['found']['side']}" for run in runs if "side" in run["found"]
            ]
            cells = [f"{flips:.0%}", rule, f"{keep:.0%}", f"{runs[0]['beta']:g}", shown(mean_interval(values, posts))]
            cells.append(shown(difference_interval(values, others, posts)) if apart else "")
            cells.append(" ".join(f"{statistics.mean(run['rewards']):.2f}" for run in runs))
            cells += [f"{statistics.mean(run['kl'] for run in runs):.1f}"]
            cells.append(f"{statistics.mean(run['kept wrong'] for run in runs):.1%}")
            cells.append(f"{statistics.mean(thrown):.1%}" if thrown else "")
            yield "| " + " | ".join([*cells, ", ".join(rates)]) + " |"


def _mean(runs: Sequence[Mapping[str, Any]]) -> float:
    return statistics.mean(value for run in runs for value in run["rewards"])


if __name__ == "__main__":
    main()
